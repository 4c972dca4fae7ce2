"""The Triton kernels that `benchmarks.gpu_check` times: each at the base model's sizes, with tiles to choose from.

A case is one host function of triton_kernels/ at one shape, in bfloat16, with the operations and bytes that it can't do
without, other tiles than the shipped one, and what PyTorch offers for the same. gpu_kernels_backward.py has those of a
backward. On tensors of the meta device a case shows what would be launched.
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
from benchmarks.report import Shape, shape_name
from squeezebert_fast.triton_kernels import attention as attentions
from squeezebert_fast.triton_kernels import feed_forward as blocks
from squeezebert_fast.triton_kernels import grouped_pointwise_conv as products
from squeezebert_fast.triton_kernels import grouped_pointwise_conv_int8 as products_int8
from squeezebert_fast.triton_kernels import post_attention as posts
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm
from squeezebert_fast.triton_kernels.embeddings import embeddings
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows

C, HIDDEN, HEADS, GROUPS, EPS = 768, 3072, 12, 4, 1e-12
SHIPPED, TORCH = "shipped", "torch"
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


# Cases


def bytes_of(rows: int, channels: int, times: int = 1) -> float:
    return 2.0 * rows * channels * times


def masks(random: Random, shape: Shape, kind: str) -> Tensor | None:
    batch, tokens = shape
    if kind == "none":
        return None
    return random(batch, 1, 1 if kind == "by key" else tokens, tokens)


def self_attention(shape: Shape, kind: str, profiled: bool = False) -> KernelCase:
    """Pass A. Beside the kernel with projections inside: projections first."""
    (batch, tokens), rows = shape, shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, mask = random.sets(batch, tokens, C), masks(random, shape, kind)
        weights, biases = [random.weight(C, C // GROUPS) for _ in range(3)], [random(C) for _ in range(3)]

        def call(number: int, **tile: Any) -> object:
            return attentions.self_attention(x(number), weights, biases, GROUPS, HEADS, mask, **tile)

        def first(number: int, product: Any, attention: Any) -> object:
            q, k, v = (product(x(number), w, b, GROUPS) for w, b in zip(weights, biases, strict=True))
            return attention(q, k, v)

        return Work(
            call,
            flops=3 * 2.0 * rows * C * C / GROUPS + 4.0 * rows * tokens * C,
            moved=bytes_of(rows, C, 2),
            tiles=around(attentions.TILES, small=rows < 1024),
            others={
                "projected first": lambda n: first(
                    n, products.grouped_pointwise_conv, lambda *qkv: attentions.attention(*qkv, mask, HEADS)
                )
            },
            torch=lambda n: first(n, torch_product, lambda *qkv: torch_attention(*qkv, mask)),
        )

    return KernelCase(f"A self_attention, {shape_name(shape)}, mask {kind}", make, profiled)


def attention(shape: Shape, kind: str, profiled: bool = False) -> KernelCase:
    (batch, tokens), rows = shape, shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, mask = random.sets(batch, tokens, C), masks(random, shape, kind)
        return Work(
            lambda n, **o: attentions.attention(x(n), x(n + 1), x(n + 2), mask, HEADS, **o),
            flops=4.0 * rows * tokens * C,
            moved=bytes_of(rows, C, 4),
            tiles=around(attentions.TILES, depth=False),
            torch=lambda n: torch_attention(x(n), x(n + 1), x(n + 2), mask),
        )

    return KernelCase(f"attention, {shape_name(shape)}, mask {kind}", make, profiled)


def packed_attention() -> KernelCase:
    """As `unpad=True` runs it: 256 sequences of 5 to 128 tokens, none of the padding."""
    lengths = torch.arange(256) % 124 + 5
    tokens = int(lengths.sum())

    def make(random: Random) -> Work:
        offsets = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(random.device, torch.int32)
        x = random.sets(tokens, C)
        weights, biases = [random.weight(C, C // GROUPS) for _ in range(3)], [random(C) for _ in range(3)]

        def call(number: int, **tile: Any) -> object:
            sequences = (offsets, int(lengths.max()))
            return attentions.self_attention(
                x(number), weights, biases, GROUPS, HEADS, None, sequences, **tile
            )

        scores = 4.0 * float((lengths**2).sum()) * C
        flops = 3 * 2.0 * tokens * C * C / GROUPS + scores
        return Work(call, flops, bytes_of(tokens, C, 2), around(attentions.TILES))

    return KernelCase("A self_attention, packed 256x5..128", make)


def post_attention(shape: Shape, profiled: bool = False) -> KernelCase:
    """Pass B. Beside the one kernel: two."""
    rows = shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, weight, bias, norm = random.sets(rows, C), random.weight(C, C), random(C), random.norm()

        def two(number: int, product: Any, end: Any) -> object:
            return end(product(x(number), weight, bias, 1), x(number + 1), *norm)

        return Work(
            lambda n, **o: posts.conv_add_layer_norm(x(n), weight, bias, 1, x(n + 1), *norm, **o),
            flops=2.0 * rows * C * C,
            moved=bytes_of(rows, C, 3),
            tiles=around(posts.TILES, small=rows < 1024),
            others={"two kernels": lambda n: two(n, products.grouped_pointwise_conv, add_layer_norm)},
            torch=lambda n: two(n, torch_product, torch_norm),
        )

    return KernelCase(f"B conv_add_layer_norm, {shape_name(shape)}", make, profiled)


def feed_forward(shape: Shape, profiled: bool = False) -> KernelCase:
    """Pass C. Beside the one kernel: three."""
    rows = shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, norm = random.sets(rows, C), random.norm()
        into, out = random.weight(HIDDEN, C // GROUPS), random.weight(C, HIDDEN // GROUPS)
        hidden_bias, bias = random(HIDDEN), random(C)

        def three(number: int) -> object:
            h = products.grouped_pointwise_conv(x(number), into, hidden_bias, GROUPS, "gelu")
            y = products.grouped_pointwise_conv(h, out, bias, GROUPS)
            return add_layer_norm(y, x(number), *norm)

        def by_torch(number: int) -> object:
            h = F.gelu(torch_product(x(number), into, hidden_bias, GROUPS))
            return torch_norm(torch_product(h, out, bias, GROUPS), x(number), *norm)

        return Work(
            lambda n, **o: blocks.feed_forward(
                x(n), into, hidden_bias, out, bias, GROUPS, "gelu", *norm, **o
            ),
            flops=2 * 2.0 * rows * C * HIDDEN / GROUPS,
            moved=bytes_of(rows, C, 2),
            tiles=around(blocks.TILES, small=rows < 1024),
            others={"three kernels": three},
            torch=by_torch,
        )

    return KernelCase(f"C feed_forward, {shape_name(shape)}", make, profiled)


def product(rows: int, i: int, o: int, groups: int, activation: str | None = None) -> KernelCase:
    def make(random: Random) -> Work:
        x, weight, bias = random.sets(rows, i), random.weight(o, i // groups), random(o)
        return Work(
            lambda n, **t: products.grouped_pointwise_conv(x(n), weight, bias, groups, activation, **t),
            flops=2.0 * rows * i * o / groups,
            moved=bytes_of(rows, i + o),
            tiles=around(products.TILES, small=rows < 1024),
            torch=None if activation else lambda n: torch_product(x(n), weight, bias, groups),
        )

    what = f"{rows} rows, {i} -> {o}, {groups} {'group' if groups == 1 else 'groups'}"
    return KernelCase(f"product, {what}{f', {activation}' if activation else ''}", make)


def product_int8(rows: int) -> KernelCase:
    def make(random: Random) -> Work:
        x, scale = random.integers(127, rows, C, dtype=torch.int8), random(rows, GROUPS, dtype=torch.float32)
        weight = random.integers(127, HIDDEN, C // GROUPS, 1, dtype=torch.int8)
        scales, bias = random(HIDDEN, 1, dtype=torch.float32), random(HIDDEN)

        def call(number: int, **tile: Any) -> object:
            return products_int8.grouped_pointwise_conv_int8(
                x, scale, weight, scales, bias, GROUPS, "gelu", torch.bfloat16, **tile
            )

        flops, moved = 2.0 * rows * C * HIDDEN / GROUPS, rows * C + bytes_of(rows, HIDDEN)
        return Work(call, flops, moved, around(products_int8.TILES))

    return KernelCase(f"product int8, {rows} rows, 768 -> 3072, 4 groups, gelu", make)


def rows_only(rows: int) -> list[KernelCase]:
    """Kernels without a product."""

    def norm(random: Random) -> Work:
        x, parameters = random.sets(rows, C), random.norm()
        return Work(
            lambda n: add_layer_norm(x(n), x(n + 1), *parameters),
            0.0,
            bytes_of(rows, C, 3),
            torch=lambda n: torch_norm(x(n), x(n + 1), *parameters),
        )

    def table(random: Random) -> Work:
        words, places, kinds = random(30528, C), random(512, C), random(2, C)
        ids = [random.integers(30528, rows // 128, 128) for _ in range(INPUT_SETS)]
        at, kind = random.integers(128, 128), random.integers(2, 1, 1).expand(1, 128)
        parameters = random.norm()
        return Work(
            lambda n: embeddings(words, places, kinds, ids[n % INPUT_SETS], at, kind, *parameters),
            0.0,
            bytes_of(rows, C, 2) + 8.0 * rows,
        )

    def quantize(random: Random) -> Work:
        x = random.sets(rows, C)
        return Work(lambda n: quantize_rows(x(n), GROUPS), 0.0, 1.5 * bytes_of(rows, C))

    named = {"add_layer_norm": norm, "embeddings": table, "quantize_rows": quantize}
    return [KernelCase(f"{name}, {rows} rows", make) for name, make in named.items()]


def cases() -> list[KernelCase]:
    """The most important first."""
    from benchmarks.gpu_kernels_backward import backward_cases

    large, long, middle, one = (256, 128), (64, 512), (32, 128), (1, 128)
    rows = 32768
    return [
        self_attention(large, "by key", profiled=True),
        post_attention(large, profiled=True),
        feed_forward(large, profiled=True),
        product(rows, C, C, GROUPS),
        attention(long, "by key", profiled=True),
        *backward_cases(rows),
        *(make(one) for make in (lambda s: self_attention(s, "by key"), post_attention, feed_forward)),
        product(128, C, C, GROUPS),
        *(make(middle) for make in (lambda s: self_attention(s, "by key"), post_attention, feed_forward)),
        self_attention(large, "none"),
        self_attention(large, "any"),
        attention(long, "none"),
        attention(long, "any"),
        self_attention((128, 256), "by key"),
        packed_attention(),
        product(rows, C, HIDDEN, GROUPS, "gelu"),
        product(rows, HIDDEN, C, GROUPS),
        product(rows, C, C, 1),
        *rows_only(rows),
        product_int8(rows),
    ]
