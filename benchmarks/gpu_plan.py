"""The parts of `benchmarks.gpu_check` in their order, the cheap and important first, and what a child does for each.

                seconds  what
    about          60    versions, compilers, the two ceilings: 20, once torch has come off a fresh machine's disk
    warm           60    (beside it) every kernel compiled, in a process for each core
    compile       200    (beside all) torch.compile fills its cache, so that its turn takes seconds
    exact          60    integer-exact results of every shipped tile
    times          90    each kernel with other tiles and masks, backwards too, and PyTorch's own
    ncu            60    hardware counters of nine kernels
    models         80    whole models beside eager, the best of PyTorch, and torch.compile
    training       70    a step: time, memory, the kernels that it consists of
    memcheck       60    every shipped tile under compute-sanitizer
    bundled       60     (where another ptxas is asked for) exact results with triton's own
    tests     the rest   tests/triton
    curves    the rest   loss curves, patched and not

What one part leaves over, the later ones have. Nothing heavy is imported here: the GPU would wait for it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_machine import tool
from benchmarks.gpu_runner import Part
from benchmarks.gpu_tools import (
    LAUNCHED,
    memcheck_command,
    ncu_command,
    read_memcheck,
    read_ncu,
    read_tests,
    tests_command,
)

if TYPE_CHECKING:
    from benchmarks.gpu_measure import Context


class Wrong(Exception):
    """A case's result is not what it must be."""


def about(name: str, context: Context, until: float) -> dict[str, Any]:
    if name == "ceilings":
        from benchmarks.gpu_measure import ceilings

        return ceilings(context)
    from benchmarks.gpu_machine import about as machine

    return machine(context)


def warm(name: str, context: Context, until: float) -> dict[str, Any]:
    from benchmarks.gpu_warm import warm as compile_all

    capable, most = ((9, 0), 2) if context.dry else (capability(), None)
    return compile_all(capable, until - 3.0, most)  # it must tell what it did before it is stopped


def capability() -> tuple[int, int]:
    """The GPU's, asked without CUDA: this process forks others."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    major, minor = map(int, done.stdout.split()[0].split("."))
    return major, minor


COMPILED = {
    "model, 256x128": (256, 128),
    "training step, 64x512": (64, 512),
    "model, 64x512": (64, 512),
}


def fill_compile_cache(name: str, context: Context, until: float) -> dict[str, Any]:
    """The first call of what `models` and `training` time later; from the cache on the disk it takes them seconds."""
    begin = time.time()
    if name.startswith("model"):
        import torch

        from benchmarks.gpu_models import Models, compiled_models

        models = Models.make(context)
        inputs = models.inputs(context.shape(COMPILED[name]))[0]
        with torch.inference_mode():
            for made in compiled_models(models).values():
                made(**inputs)
    else:
        from benchmarks.gpu_training import COMPILED_EAGER, batches, candidate, classifier

        one = candidate(context, COMPILED_EAGER, classifier(context))
        one.step(batches(context, context.shape(COMPILED[name]), 1)[0])
    return {"seconds": round(time.time() - begin, 1)}


def exact(name: str, context: Context, until: float) -> dict[str, Any]:
    """At odd sizes many times, so that runs meet in other orders, then at sizes that fill the GPU."""
    from benchmarks.exact import BASE, SMALL, wrong

    case = exact_cases()[name]
    if context.dry:
        import tests.triton.conftest  # noqa: F401  (mends bfloat16 in the interpreter)

        sizes: list[tuple[Any, int]] = [(SMALL, 1)]
    else:
        sizes = [(BASE, 20), (BASE._replace(rows=16 * 1024 + 77, batch=64, tokens=300), 5)]
    for each, repeats in sizes:
        if fault := wrong(case, each, context.device, repeats=repeats):
            raise Wrong(f"{fault} ({each.rows} rows, {each.batch}x{each.tokens})")
    return {"repeats": [repeats for _, repeats in sizes]}


def exact_cases() -> dict[str, Any]:
    from benchmarks.exact_cases import cases

    return {case.name: case for case in cases()}


def memcheck(name: str, context: Context, until: float) -> dict[str, Any]:
    from benchmarks.exact import BASE, SMALL, wrong

    if context.dry:
        import tests.triton.conftest  # noqa: F401
    sizes = SMALL if context.dry else BASE
    if fault := wrong(exact_cases()[name], sizes, context.device, repeats=1):
        raise Wrong(fault)
    return {"checked": True}


def shipped_in_bfloat16_first() -> list[str]:
    """A part may run out of time: what models run on comes first."""
    return sorted(exact_cases(), key=lambda name: "bf16" not in name)


def kernels() -> dict[str, Any]:
    from benchmarks.gpu_kernels_forward import cases

    return {case.name: case for case in cases()}


def times(name: str, context: Context, until: float) -> dict[str, Any]:
    from benchmarks.gpu_kernels import timed
    from benchmarks.gpu_warm import not_launching

    if not context.dry:
        return timed(kernels()[name], context)
    with not_launching():
        return timed(kernels()[name], context)


def profile(name: str, context: Context, until: float) -> dict[str, Any]:
    """Under ncu: one launch of each of the case's kernels between the profiler's start and stop."""
    import torch

    from benchmarks.gpu_kernels import Random
    from benchmarks.gpu_warm import launched_names, not_launching

    if context.dry:
        with not_launching():
            kernels()[name].make(Random("meta")).call(0)
        return {"kernels": []}
    work = kernels()[name].make(Random("cuda"))
    work.call(0)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    with launched_names() as names:
        work.call(1)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
    print(LAUNCHED + " ".join(names), flush=True)
    return {}


def models(name: str, context: Context, until: float) -> dict[str, Any]:
    from benchmarks.gpu_models import cases

    return cases()[name](context)


def training(name: str, context: Context, until: float) -> dict[str, Any]:
    from benchmarks.gpu_training import cases

    return cases()[name](context)


def curves(name: str, context: Context, until: float) -> dict[str, Any]:
    from benchmarks.gpu_curves import curves as all_runs

    return all_runs(context)


def nothing(name: str, context: Context, until: float) -> dict[str, Any]:
    return {}


def names_of(module: str) -> Callable[[], Sequence[str]]:
    def names() -> Sequence[str]:
        return list(__import__(f"benchmarks.{module}", fromlist=["cases"]).cases())

    return names


def missing(name: str) -> Callable[[], str | None]:
    return lambda: None if tool(name) else f"{name} is not installed"


UNCACHED: dict[str, str | None] = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""Without PyTorch's cache of memory, a read past a tensor is a read past an allocation."""

PARTS = (
    Part("warm", 60.0, lambda: ["kernels"], "every kernel compiled", 60.0, beside=True),
    Part("compile", 200.0, lambda: list(COMPILED), "torch.compile's cache", 100.0, per_child=1, beside=True),
    Part("about", 60.0, lambda: ["machine", "ceilings"], "versions, compilers, ceilings", 60.0),
    Part(
        "exact",
        60.0,
        shipped_in_bfloat16_first,
        "integer-exact results of every shipped tile",
        30.0,
        per_child=6,
        at_once=12,
        after="warm",
        interpreted=True,
    ),
    Part("times", 90.0, lambda: list(kernels()), "kernels, other tiles, masks, PyTorch's own", per_child=12),
    Part(
        "ncu",
        60.0,
        lambda: [name for name, case in kernels().items() if case.profiled],
        "hardware counters",
        per_child=3,
        command=ncu_command,
        read=read_ncu,
        obstacle=missing("ncu"),
    ),
    Part("models", 80.0, names_of("gpu_models"), "whole models", per_child=4, interpreted=True),
    Part("training", 70.0, names_of("gpu_training"), "training steps", per_child=3, interpreted=True),
    Part(
        "memcheck",
        60.0,
        shipped_in_bfloat16_first,
        "shipped tiles under compute-sanitizer",
        60.0,
        per_child=12,
        at_once=13,
        command=memcheck_command,
        environment=UNCACHED,
        read=read_memcheck,
        obstacle=missing("compute-sanitizer"),
        interpreted=True,
    ),
    Part(
        "bundled",
        60.0,
        shipped_in_bfloat16_first,
        "`exact` with triton's own ptxas, where TRITON_PTXAS_PATH names another",
        30.0,
        per_child=12,
        at_once=13,
        environment={"TRITON_PTXAS_PATH": None},
        obstacle=lambda: None if os.environ.get("TRITON_PTXAS_PATH") else "TRITON_PTXAS_PATH names no other",
        interpreted=True,
    ),
    Part(
        "tests",
        180.0,
        lambda: ["tests"],
        "tests/triton, verbose",
        180.0,
        command=tests_command,
        read=read_tests,
        interpreted=True,
    ),
    Part("curves", 90.0, lambda: ["curves"], "loss curves", 90.0, interpreted=True),
)

WORK: dict[str, Callable[[str, Context, float], dict[str, Any]]] = {
    "about": about,
    "warm": warm,
    "compile": fill_compile_cache,
    "exact": exact,
    "times": times,
    "ncu": profile,
    "models": models,
    "training": training,
    "memcheck": memcheck,
    "bundled": exact,
    "tests": nothing,
    "curves": curves,
}
"""By part, what a child does for a case, given what is left of the part's time."""
