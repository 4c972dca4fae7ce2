"""The kernels of a training step that `benchmarks.gpu_check` times: see gpu_kernels.py."""

from __future__ import annotations

from typing import Any

import torch

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
    torch_product,
)
from benchmarks.report import Shape, shape_name
from squeezebert_fast.triton_kernels import attend
from squeezebert_fast.triton_kernels import attention as attentions
from squeezebert_fast.triton_kernels import attention_backward as attentions_back
from squeezebert_fast.triton_kernels import feed_forward_backward as blocks_back
from squeezebert_fast.triton_kernels import grouped_pointwise_conv as products
from squeezebert_fast.triton_kernels import weight_gradient as weights
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm_with_statistics
from squeezebert_fast.triton_kernels.add_layer_norm_backward import add_layer_norm_backward
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout
from squeezebert_fast.triton_kernels.qkv_projection import qkv_input_gradient

F32 = torch.float32


def backward_cases(rows: int) -> list[KernelCase]:
    """Those that a step spends its time in, first."""
    long: Shape = (rows // 512, 512)
    return [
        attention_backward(long, "by key", dropped=False, profiled=True),
        weight_gradient(rows, C, HIDDEN, GROUPS),
        input_gradient(rows, C, C, GROUPS, profiled=True),
        projections_input_gradient(rows),
        hidden_gradient(rows, profiled=True),
        weight_gradient(rows, C, C, GROUPS, profiled=True),
        weight_gradient(rows, C, C, 1),
        input_gradient(rows, C, HIDDEN, GROUPS),
        attention_backward(long, "by key", dropped=True),
        attention_with_statistics(long),
        norm_forward(rows),
        norm_backward(rows),
        attention_backward(long, "none", dropped=False),
        attention_backward(long, "any", dropped=False),
    ]


def named(what: str, rows: int, i: int, o: int, groups: int) -> str:
    return f"{what}, {rows} rows, {i} -> {o}, {groups} {'group' if groups == 1 else 'groups'}"


def input_gradient(rows: int, i: int, o: int, groups: int, profiled: bool = False) -> KernelCase:
    """Of the product i -> o: its transposed weight times the gradient of its result."""

    def make(random: Random) -> Work:
        grad, weight = random.sets(rows, o), random.weight(o, i // groups)
        transposed = weight.flatten(1).unflatten(0, (groups, -1)).transpose(1, 2).reshape(i, -1, 1)
        return Work(
            lambda n, **t: products.grouped_pointwise_conv(
                grad(n), weight, None, groups, transposed=True, **t
            ),
            flops=2.0 * rows * i * o / groups,
            moved=bytes_of(rows, i + o),
            tiles=around(products.TILES),
            torch=lambda n: torch_product(grad(n), transposed, None, groups),
        )

    return KernelCase(named("input gradient", rows, i, o, groups), make, profiled)


def projections_input_gradient(rows: int) -> KernelCase:
    """Of q, k and v: three products and their sum in one launch. Beside it: three, and two additions."""

    def make(random: Random) -> Work:
        grads, weights = random.sets(rows, C), [random.weight(C, C // GROUPS) for _ in range(3)]
        turned = [w.flatten(1).unflatten(0, (GROUPS, -1)).transpose(1, 2).reshape(C, -1, 1) for w in weights]

        def each(number: int, run: Any, of: list[torch.Tensor]) -> object:
            first, second, third = (run(grads(number + i), w) for i, w in enumerate(of))
            return first.add_(second).add_(third)

        def three(number: int) -> object:
            run = products.grouped_pointwise_conv
            return each(number, lambda g, w: run(g, w, None, GROUPS, transposed=True), weights)

        return Work(
            lambda n, **t: qkv_input_gradient([grads(n + i) for i in range(3)], weights, GROUPS, **t),
            flops=3 * 2.0 * rows * C * C / GROUPS,
            moved=bytes_of(rows, C, 4),
            tiles=around(products.TILES),
            others={"three kernels": three},
            torch=lambda n: each(n, lambda g, w: torch_product(g, w, None, GROUPS), turned),
        )

    return KernelCase(f"q, k, v input gradient, {rows} rows, {GROUPS} groups", make)


def weight_gradient(rows: int, i: int, o: int, groups: int, profiled: bool = False) -> KernelCase:
    def make(random: Random) -> Work:
        x, grad = random.sets(rows, i), random.sets(rows, o)

        def by_torch(number: int) -> object:
            by_group = (t(number).unflatten(1, (groups, -1)).transpose(0, 1) for t in (grad, x))
            g, columns = by_group
            return torch.bmm(g.transpose(1, 2), columns), grad(number).sum(0)

        return Work(
            lambda n, **t: weights.weight_gradient(grad(n), x(n), groups, bias=True, **t),
            flops=2.0 * rows * i * o / groups,
            moved=bytes_of(rows, i + o),
            tiles=around(weights.TILES),
            torch=by_torch,
        )

    return KernelCase(named("weight gradient", rows, i, o, groups), make, profiled)


def hidden_gradient(rows: int, profiled: bool = False) -> KernelCase:
    """The feed-forward block's hidden tensor, made again, and the gradient before its activation."""

    def make(random: Random) -> Work:
        x, grad = random.sets(rows, C), random.sets(rows, C)
        into, out, bias = (
            random.weight(HIDDEN, C // GROUPS),
            random.weight(C, HIDDEN // GROUPS),
            random(HIDDEN),
        )

        def call(number: int, **tile: Any) -> object:
            return blocks_back.hidden_gradient(
                grad(number), x(number), into, bias, out, GROUPS, "gelu", keep_hidden=True, **tile
            )

        flops = 2 * 2.0 * rows * C * HIDDEN / GROUPS
        return Work(call, flops, bytes_of(rows, 2 * C + 2 * HIDDEN), around(blocks_back.TILES))

    return KernelCase(f"hidden gradient, {rows} rows", make, profiled)


def attention_backward(shape: Shape, kind: str, dropped: bool, profiled: bool = False) -> KernelCase:
    """Both of its kernels: 5 products for the forward's 2. What they compute again isn't counted."""
    (batch, tokens), rows = shape, shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, mask = random.sets(batch, tokens, C), masks(random, shape, kind)
        dropout = Dropout(0.1, random.integers(1000).squeeze()) if dropped else NO_DROPOUT
        _, statistics = attentions.attention_with_statistics(x(0), x(1), x(2), mask, HEADS, dropout)
        both = attentions_back.tiles_for(x(0), C // HEADS, kind, dropout)

        def call(number: int, **tiles: Any) -> object:
            return attentions_back.attention_backward(
                x(3), x(0), x(1), x(2), mask, statistics, HEADS, dropout, (True,) * 3, **tiles
            )

        by_queries, by_keys = both
        others = [
            (by_queries._replace(stages=3), by_keys._replace(stages=3)),
            (by_queries._replace(stages=1), by_keys._replace(stages=1)),
            (by_queries._replace(warps=8), by_keys._replace(warps=8)),
            (by_queries._replace(queries=128, warps=8), by_keys._replace(keys=128, warps=8)),
            (by_queries._replace(keys=32), by_keys._replace(queries=32)),
        ]
        return Work(
            call,
            flops=10.0 * rows * tokens * C,
            moved=bytes_of(rows, C, 7),
            tiles=[pair for pair in others if pair != both],
            by_tile=lambda pair: {"tiles": pair},
        )

    name = f"attention backward, {shape_name(shape)}, mask {kind}{', dropout' if dropped else ''}"
    return KernelCase(name, make, profiled)


def attention_with_statistics(shape: Shape) -> KernelCase:
    """The forward as training runs it, dropout on."""
    (batch, tokens), rows = shape, shape[0] * shape[1]

    def make(random: Random) -> Work:
        x, mask = random.sets(batch, tokens, C), masks(random, shape, "by key")
        dropout = Dropout(0.1, random.integers(1000).squeeze())

        def call(number: int, **tile: Any) -> object:
            q, k, v = (x(number + further) for further in range(3))
            return attentions.attention_with_statistics(q, k, v, mask, HEADS, dropout, **tile)

        tiles = around(attend.TILES, depth=False)
        return Work(call, 4.0 * rows * tokens * C, bytes_of(rows, C, 4), tiles)

    return KernelCase(f"attention, {shape_name(shape)}, mask by key, dropout, training", make)


def norm_forward(rows: int) -> KernelCase:
    """The residual is float32, as autocast leaves it."""

    def make(random: Random) -> Work:
        x, residual, norm = random.sets(rows, C), random(rows, C, dtype=F32), random.norm()
        return Work(
            lambda n: add_layer_norm_with_statistics(x(n), residual, *norm, NO_DROPOUT),
            0.0,
            bytes_of(rows, C, 1 + 3 * 2),
        )

    return KernelCase(f"add_layer_norm, {rows} rows, training", make)


def norm_backward(rows: int) -> KernelCase:
    def make(random: Random) -> Work:
        grad, total = random(rows, C, dtype=F32), random(rows, C, dtype=F32)
        mean, reciprocal, gamma = random(rows, dtype=F32), random(rows, dtype=F32), random(C)
        return Work(
            lambda n: add_layer_norm_backward(
                grad, total, mean, reciprocal, gamma, NO_DROPOUT, (True,) * 4, torch.bfloat16
            ),
            0.0,
            bytes_of(rows, C, 1 + 3 * 2),
        )

    return KernelCase(f"add_layer_norm backward, {rows} rows", make)
