"""What an exact check of a kernel is: small integers in, and a result that can be only one number.

Sums of products of small integers are exact in float32, whatever their order, so a kernel's result is known to the
last bit: the sum in float64, rounded to the result's dtype. A tolerance, or a cosine of 0.99, would hide one operand
that was overwritten while it was read; an integer that is off by one shows. What isn't integer arithmetic (a quotient,
a LayerNorm) is compared to within its own rounding, which is far less than what one integer moves it by.

The cases are in exact_products.py, exact_norms.py and exact_attention.py, and exact_cases.py is the list of all. Tests
run them in Triton's interpreter, at SMALL sizes; `make gpu-check` runs them on a GPU, at BASE ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Sizes(NamedTuple):
    """What a case is run at. Nothing is a multiple of a tile where it needn't be."""

    rows: int
    """Of products and norms."""
    batch: int
    tokens: int
    """Of each of the `batch` sequences that attention takes."""
    channels: int
    hidden: int
    heads: int
    groups: int


BASE = Sizes(131, 3, 77, 768, 3072, 12, 4)
"""The base model's."""
SMALL = Sizes(131, 2, 77, 48, 96, 2, 2)
"""For the interpreter, which takes as long for a program as a GPU for a million."""


def surrounded(values: Tensor) -> Tensor:
    """`values` in memory of its own, with NaNs (or the largest integer) before and after: what is read out of bounds
    shows.
    """
    floating = values.dtype.is_floating_point
    outside = float("nan") if floating else torch.iinfo(values.dtype).max
    room = torch.full((values.numel() + 512,), outside, dtype=values.dtype, device=values.device)
    inside = room[256 : 256 + values.numel()].view(values.shape)
    inside.copy_(values)
    return inside


class Integers:
    """Seeded tensors of small integers, of one dtype on one device, in the middle of NaNs."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(
        self, *shape: int, most: int = 2, share: float = 1.0, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Integers of at most `most` either way, of which `share` may be other than 0."""
        values = self._randint(-most, most + 1, shape)
        if share < 1.0:
            values *= torch.rand(shape, generator=self._generator) < share
        return self.given(values, dtype)

    def between(self, least: int, most: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Integers from `least` to `most`."""
        return self.given(self._randint(least, most + 1, shape), dtype)

    def order(self, n: int) -> Tensor:
        """0 .. n - 1 in some order, on the CPU."""
        return torch.randperm(n, generator=self._generator)

    def given(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """These values, as the others are."""
        return surrounded(values.to(self.device, dtype or self.dtype))

    def _randint(self, least: int, end: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(least, end, shape, generator=self._generator)


class Expected(NamedTuple):
    """One result as it must be."""

    name: str
    values: Tensor
    """float64."""
    rounded: bool = False
    """Whether the kernel's float32 arithmetic rounds on the way: then half a unit in the last place, and the rounding
    of some float32 operations, are let pass. Otherwise the result is `values` in its own dtype, bit for bit."""

    def fault(self, result: Tensor) -> str | None:
        """Where `result` is another one, in a line, or None."""
        if result.shape != self.values.shape:
            return f"{self.name} has shape {list(result.shape)}, expected {list(self.values.shape)}"
        if self.rounded:
            unit = torch.finfo(result.dtype).eps / 2 + 2.0**-15
            near = (result.double() - self.values).abs() <= unit * self.values.abs().clamp(min=0.25)
            right = near | (result == self.values)  # infinities
        else:
            right = result == self.values.to(result.dtype)
        if right.all():
            return None
        place = (~right).nonzero()[0].tolist()
        found, wanted = result[tuple(place)].item(), self.values[tuple(place)].item()
        count = f"{int((~right).sum())} of {right.numel()}"
        return f"{self.name}: {count} values are wrong, the first at {place}: {found} in place of {wanted}"


@dataclass(frozen=True)
class Run:
    """A case at some sizes."""

    inputs: Sequence[Tensor]
    """Those operands of which each first row has a share in the results, and indices."""
    call: Callable[..., Sequence[Tensor]]
    """The kernel, given `inputs`."""
    exact: Callable[..., Sequence[Expected]]
    """Its results as they must be, given `inputs`."""


@dataclass(frozen=True)
class Case:
    """A kernel with one of its shipped tiles."""

    name: str
    kernel: str
    """Its file in triton_kernels/."""
    dtype: torch.dtype
    make: Callable[[Sizes, Integers], Run]


def named(kernel: str, what: str, dtype: torch.dtype, make: Callable[[Sizes, Integers], Run]) -> Case:
    """A case, its name in the manner of all."""
    return Case(f"{kernel}, {what}, {NAMES[dtype]}", kernel, dtype, make)


def run_of(case: Case, sizes: Sizes, device: str) -> Run:
    """The case at these sizes, with the same numbers each time."""
    return case.make(sizes, Integers(device, case.dtype, zlib.crc32(case.name.encode())))


def wrong(case: Case, sizes: Sizes, device: str, repeats: int = 2) -> str | None:
    """What is wrong with the kernel's results, in a line, or None. Raises whatever a launch raises.

    Each of the `repeats` runs must have the bits of the first one.
    """
    run = run_of(case, sizes, device)
    expected = run.exact(*run.inputs)
    first: list[Tensor] = []
    for repeat in range(repeats):
        with poisoned():
            results = list(run.call(*run.inputs))
        faults = (e.fault(r) for e, r in zip(expected, results, strict=True))
        if fault := next(filter(None, faults), None):
            return fault if repeat == 0 else f"run {repeat + 1}, not the first: {fault}"
        first = first or results
        if not all(torch.equal(a, b) for a, b in zip(results, first, strict=True)):
            return f"run {repeat + 1} has other bits than the first"
    return None


@contextmanager
def poisoned() -> Iterator[None]:
    """Within the block new memory is full of NaNs, or of the largest integer: what a kernel doesn't write shows."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
