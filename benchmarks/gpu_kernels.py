"""How `benchmarks.gpu_check` times the Triton kernels: each at the base model's sizes, with tiles to choose from.

A case is one host function of triton_kernels/ at one shape, in bfloat16, with the operations and bytes that it can't do
without, other tiles than the shipped one, and what PyTorch offers for the same. The cases are in gpu_kernels_forward.py
and gpu_kernels_backward.py. On tensors of the meta device a case shows what would be launched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_measure import INPUT_SETS, Call, Context, captured, row
from benchmarks.gpu_names import SHIPPED, TORCH
from benchmarks.report import Shape

C, HIDDEN, HEADS, GROUPS, EPS = 768, 3072, 12, 4, 1e-12
MOST_CANDIDATES = 8
"""Of one kernel's own: PyTorch's comes on top."""


class Random:
    """Tensors of the kind that kernels get, on a GPU or without data."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        if self.device == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        return (torch.randn(shape, device=self.device) * 0.5).to(dtype)

    def integers(self, most: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(most, shape, device=self.device, dtype=dtype)

    def weight(self, out: int, in_per_group: int) -> Tensor:
        return self(out, in_per_group, 1) * in_per_group**-0.5

    def sets(self, *shape: int) -> Callable[[int], Tensor]:
        """Inputs that rotate, so that no cache holds them from the call before."""
        made = [self(*shape) for _ in range(INPUT_SETS)]
        return lambda number: made[number % INPUT_SETS]

    def norm(self) -> tuple[Tensor, Tensor, float]:
        return self(C), self(C), EPS


@dataclass(frozen=True)
class Work:
    """A kernel on its inputs."""

    call: Callable[..., object]
    """Takes the number of the round, and `tile` where there are any."""
    flops: float
    moved: float
    tiles: Sequence[Any] = ()
    """To choose from; keyword arguments of `call` are made of them by `by_tile`."""
    by_tile: Callable[[Any], dict[str, Any]] = lambda tile: {"tile": tile}
    others: Mapping[str, Call] = field(default_factory=dict)
    """Other ways to the same result, by their names."""
    torch: Call | None = None


@dataclass(frozen=True)
class KernelCase:
    name: str
    make: Callable[[Random], Work]
    profiled: bool = False
    """Whether ncu looks at it."""


def label(tile: Any) -> str:
    """128x64x64 w8 s3: extents, warps, stages. For a pair of tiles, both."""
    if not hasattr(tile, "_fields"):
        return " + ".join(map(label, tile))
    extents = [getattr(tile, name) for name in tile._fields if name not in ("warps", "stages", "capability")]
    return f"{'x'.join(map(str, extents))} w{tile.warps} s{tile.stages}"


def around(table: Sequence[Any], small: bool = False, depth: bool = True) -> list[Any]:
    """The table's largest tiles (or its smallest), and neighbours of the first in stages, warps and, where the kernel
    has one, depth.
    """
    near = list(table[-3:]) if small else list(table[:3])
    first = near[0]
    for stages in (first.stages - 1, first.stages + 1):
        if 1 <= stages <= 5:
            near.append(first._replace(stages=stages))
    if depth and "depth" in first._fields:
        near.append(first._replace(depth=first.depth * 2 if first.depth < 64 else first.depth // 2))
    near.append(first._replace(warps=first.warps // 2 if first.warps > 4 else first.warps * 2))
    return list(dict.fromkeys(near))[: MOST_CANDIDATES - 2]


@contextlib.contextmanager
def launched_with(**options: Any) -> Iterator[None]:
    """Within the block every kernel is launched with these options of the compiler too."""
    from triton.runtime.jit import JITFunction

    own = JITFunction.run
    JITFunction.run = lambda self, *args, **kwargs: own(self, *args, **{**kwargs, **options})
    try:
        yield
    finally:
        JITFunction.run = own


def candidates(work: Work) -> dict[str, Call]:
    """What takes turns: the shipped choice, other tiles, half the registers for twice the programs, other ways."""

    def with_tile(tile: Any) -> Call:
        return lambda number: work.call(number, **work.by_tile(tile))

    def with_128_registers(number: int) -> None:
        with launched_with(maxnreg=128):
            work.call(number)

    found: dict[str, Call] = {SHIPPED: work.call}
    found |= {label(tile): with_tile(tile) for tile in work.tiles}
    if work.tiles:
        found["shipped, at most 128 registers"] = with_128_registers
    found |= work.others
    return found | ({TORCH: work.torch} if work.torch else {})


def timed(case: KernelCase, context: Context) -> dict[str, Any]:
    """All candidates of a case."""
    work = case.make(Random("meta" if context.dry else "cuda"))
    calls = 2 * INPUT_SETS
    times = captured(candidates(work), context, calls)
    rows = [row(name, ms, work.flops, work.moved) for name, ms in times.items()]
    return {"rows": rows, "flops": work.flops, "bytes": work.moved}


# What PyTorch offers: a product of all groups at once, and its own attention


def torch_product(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """The grouped pointwise convolution as one torch.bmm on strided views: [groups, rows, in] x [groups, in, out]."""
    if groups == 1:
        return F.linear(x, weight.flatten(1), bias)
    rows = x.flatten(0, -2).unflatten(1, (groups, -1)).transpose(0, 1)
    columns = weight.flatten(1).unflatten(0, (groups, -1)).transpose(1, 2)
    y = torch.empty(rows.shape[1], groups, columns.shape[2], dtype=x.dtype, device=x.device)
    if bias is None:
        torch.bmm(rows, columns, out=y.transpose(0, 1))
    else:
        torch.baddbmm(bias.view(groups, 1, -1), rows, columns, out=y.transpose(0, 1))
    return y.flatten(1).view(*x.shape[:-1], -1)


def torch_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def torch_norm(x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x + residual, (C,), gamma, beta, eps)


def bytes_of(rows: int, channels: int, times: int = 1) -> float:
    return 2.0 * rows * channels * times


def masks(random: Random, shape: Shape, kind: str) -> Tensor | None:
    batch, tokens = shape
    if kind == "none":
        return None
    return random(batch, 1, 1 if kind == "by key" else tokens, tokens)
