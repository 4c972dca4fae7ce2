"""The kernels of a forward that `benchmarks.gpu_check` times, and the list of all: see gpu_kernels.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu_kernels import (
    GROUPS,
    HEADS,
    HIDDEN,
    C,
    KernelCase,
    Random,
    Work,
    around,
    bytes_of,
    masks,
    torch_attention,
    torch_norm,
    torch_product,
)
from benchmarks.gpu_kernels_backward import backward_cases
from benchmarks.gpu_measure import INPUT_SETS
from benchmarks.report import Shape, shape_name
from squeezebert_fast.triton_kernels import attend
from squeezebert_fast.triton_kernels import attention as attentions
from squeezebert_fast.triton_kernels import feed_forward as blocks
from squeezebert_fast.triton_kernels import grouped_pointwise_conv as products
from squeezebert_fast.triton_kernels import grouped_pointwise_conv_int8 as products_int8
from squeezebert_fast.triton_kernels import post_attention as posts
from squeezebert_fast.triton_kernels import self_attention as pass_a
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm
from squeezebert_fast.triton_kernels.embeddings import embeddings
from squeezebert_fast.triton_kernels.qkv_projection import qkv_projection
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows


def self_attention(shape: Shape, kind: str, profiled: bool = False) -> KernelCase:
    """Pass A. Beside the kernel with projections inside: projections first."""
    (batch, tokens), rows = shape, shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, mask = random.sets(batch, tokens, C), masks(random, shape, kind)
        weights, biases = [random.weight(C, C // GROUPS) for _ in range(3)], [random(C) for _ in range(3)]

        def call(number: int, **tile: Any) -> object:
            return pass_a.self_attention(x(number), weights, biases, GROUPS, HEADS, mask, **tile)

        def by_torch(number: int) -> object:
            q, k, v = (torch_product(x(number), w, b, GROUPS) for w, b in zip(weights, biases, strict=True))
            return torch_attention(q, k, v, mask)

        return Work(
            call,
            flops=3 * 2.0 * rows * C * C / GROUPS + 4.0 * rows * tokens * C,
            moved=bytes_of(rows, C, 2),
            tiles=around(attend.TILES, small=rows < 1024),
            others={
                "projected first": lambda n: attentions.attention(
                    *qkv_projection(x(n), weights, biases, GROUPS), mask, HEADS
                )
            },
            torch=by_torch,
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
            tiles=around(attend.TILES, depth=False),
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
            return pass_a.self_attention(x(number), weights, biases, GROUPS, HEADS, None, sequences, **tile)

        scores = 4.0 * float((lengths**2).sum()) * C
        flops = 3 * 2.0 * tokens * C * C / GROUPS + scores
        return Work(call, flops, bytes_of(tokens, C, 2), around(attend.TILES))

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


def projections(rows: int) -> KernelCase:
    """q, k and v in one launch. Beside it: three."""

    def make(random: Random) -> Work:
        x = random.sets(rows, C)
        weights, biases = [random.weight(C, C // GROUPS) for _ in range(3)], [random(C) for _ in range(3)]

        def each(number: int, run: Any) -> object:
            return [run(x(number), w, b, GROUPS) for w, b in zip(weights, biases, strict=True)]

        return Work(
            lambda n, **t: qkv_projection(x(n), weights, biases, GROUPS, **t),
            flops=3 * 2.0 * rows * C * C / GROUPS,
            moved=bytes_of(rows, C, 4),
            tiles=around(products.TILES, small=rows < 1024),
            others={"three kernels": lambda n: each(n, products.grouped_pointwise_conv)},
            torch=lambda n: each(n, torch_product),
        )

    return KernelCase(f"q, k, v, {rows} rows, {GROUPS} groups", make)


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
    large, long, middle, one = (256, 128), (64, 512), (32, 128), (1, 128)
    rows = 32768
    return [
        self_attention(large, "by key", profiled=True),
        post_attention(large, profiled=True),
        feed_forward(large, profiled=True),
        product(rows, C, C, GROUPS),
        projections(rows),
        attention(long, "by key", profiled=True),
        *backward_cases(rows),
        *(make(one) for make in (lambda s: self_attention(s, "by key"), post_attention, feed_forward)),
        product(128, C, C, GROUPS),
        projections(128),
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
