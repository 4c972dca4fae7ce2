"""Compiles what `benchmarks.gpu_check` will launch, in many processes and without a GPU's context.

The host functions run on tensors without data, or on the CPU, and Triton is told of a GPU that it needn't have: a
launch then compiles, into Triton's cache, under the key that the real one looks for. This is done on the GPU's machine,
while its ceilings are measured, and not before, elsewhere: the key holds a hash of triton's own library, which is
another one for every version of Python, and an entry of the cache names its files by absolute paths.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks.gpu_kernels import KernelCase, Random, candidates
from benchmarks.gpu_kernels_forward import cases
from benchmarks.gpu_measure import one_line
from benchmarks.gpu_names import TORCH


class NoDriver:
    """Triton's driver, as far as compiling asks it, for a GPU that isn't there."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self._target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True)
class Launch:
    """A launch that was asked for."""

    kernel: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def key(self) -> str:
        """The same for launches that the same machine code serves, as far as can be told without Triton."""

        def of(value: Any) -> object:
            return (value.dtype, value.storage_offset() % 8) if isinstance(value, Tensor) else value

        named = {name: of(value) for name, value in self.keywords.items() if name != "grid"}
        return f"{self.kernel.fn.__name__} {[of(a) for a in self.arguments]} {named}"

    def compile(self) -> None:
        self.kernel.run(*self.arguments, **{**self.keywords, "warmup": True})


@contextlib.contextmanager
def not_launching(take: Callable[[Launch], object] = lambda launch: None) -> Iterator[None]:
    """Within the block launches are handed to `take` in place of made."""
    own = JITFunction.run
    JITFunction.run = lambda self, *args, **keywords: take(Launch(self, args, keywords))
    try:
        yield
    finally:
        JITFunction.run = own


@contextlib.contextmanager
def launched_names() -> Iterator[list[str]]:
    """The names of the kernels that are launched within the block."""
    own, names = JITFunction.run, list[str]()

    def run(self: Any, *args: Any, **keywords: Any) -> Any:
        names.append(self.fn.__name__)
        return own(self, *args, **keywords)

    JITFunction.run = run
    try:
        yield names
    finally:
        JITFunction.run = own


Calls = dict[str, Callable[[], object]]
"""By the names of cases."""


def launches(calls: Calls) -> tuple[list[Launch], dict[str, str]]:
    """All different launches that these calls make, in their order, and by name the errors of those that fail."""
    found: dict[str, Launch] = {}
    errors = {}
    with not_launching(lambda launch: found.setdefault(launch.key, launch)):
        for name, call in calls.items():
            try:
                call()
            except Exception as error:
                errors[name] = one_line(error)
    return list(found.values()), errors


def exact_calls() -> Calls:
    """The checks of gpu_check's part `exact`."""
    from benchmarks.exact import BASE, run_of
    from benchmarks.exact_cases import cases as exact_cases

    def call(case: Any) -> Callable[[], object]:
        def run() -> object:
            ready = run_of(case, BASE, "cpu")  # some look into their inputs
            return ready.call(*ready.inputs)

        return run

    return {case.name: call(case) for case in exact_cases()}


def timed_calls() -> Calls:
    """What `times` times, PyTorch's own left out."""

    def call(case: KernelCase) -> Callable[[], object]:
        def run() -> None:
            for name, candidate in candidates(case.make(Random("meta"))).items():
                if name != TORCH:
                    candidate(0)

        return run

    return {case.name: call(case) for case in cases()}


_work: list[Launch] = []
"""What forked workers take their share of."""


def _compiled(index: int) -> str | None:
    try:
        _work[index].compile()
    except Exception as error:
        return f"{_work[index].kernel.fn.__name__}: {one_line(error)}"
    return None


def warm(capability: tuple[int, int], until: float, most: int | None = None) -> dict[str, Any]:
    """Compile all, until then at the latest; how many there were, and which the compiler refused.

    What isn't called without data is compiled when its turn comes.
    """
    begin = time.time()
    torch.set_num_threads(1)  # what is forked below has no other thread
    driver.set_active(NoDriver(capability))
    found, errors = launches({**exact_calls(), **timed_calls()})
    _work[:] = found[:most]
    workers = max(1, (os.cpu_count() or 2) - 2)
    done, refused = 0, []
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        compiled = pool.imap_unordered(_compiled, range(len(_work)))
        with contextlib.suppress(multiprocessing.TimeoutError):
            for _ in _work:
                wrong = compiled.next(timeout=max(0.1, until - time.time()))
                done += 1
                if wrong:
                    refused.append(wrong)
    return {
        "kernels": len(found),
        "compiled": done,
        "workers": workers,
        "seconds": round(time.time() - begin, 1),
        "refused": refused[:20],
        "not_called": errors,
    }
