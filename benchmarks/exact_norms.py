"""Exact cases of what ends in a LayerNorm, and of quantize_rows.

A LayerNorm rounds, so its result is compared to within that. The sums before it have a deviation of some ten, so that
one of them, off by one, moves its result by more than ten units in bfloat16's last place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.exact import Case, Expected, Integers, Run, Sizes, named
from benchmarks.exact_products import HALVES, conv, hidden_of, mlp_arguments, product, tiles_of
from squeezebert_fast.triton_kernels import add_layer_norm as norms
from squeezebert_fast.triton_kernels import feed_forward as blocks
from squeezebert_fast.triton_kernels import post_attention as posts
from squeezebert_fast.triton_kernels.add_layer_norm_backward import add_layer_norm_backward
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT
from squeezebert_fast.triton_kernels.embeddings import embeddings
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows

EPS = 1e-12


def affine(integers: Integers, channels: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm, of which none is 0."""
    return integers.between(1, 3, channels), integers.between(4, 9, channels)


def normalized(total: Tensor, gamma: Tensor, beta: Tensor) -> Expected:
    """LayerNorm of float64 rows."""
    y = torch.nn.functional.layer_norm(total, total.shape[-1:], gamma.double(), beta.double(), EPS)
    return Expected("y", y, rounded=True)


def post_attention_case(dtype: torch.dtype, tile: posts.Tile, grouped: bool) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        groups = sizes.groups if grouped else 1

        def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *norm: Tensor) -> list[Tensor]:
            return [posts.conv_add_layer_norm(x, weight, bias, groups, residual, *norm, EPS, tile=tile)]

        def exact(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *norm: Tensor) -> list[Expected]:
            # the product waits for the norm in the result's dtype
            waiting = product(x, weight, bias, groups).to(x.dtype).double()
            return [normalized(waiting + residual.double(), *norm)]

        x, residual = (integers(sizes.rows, sizes.channels) for _ in range(2))
        weight, bias = conv(integers, sizes.channels, sizes.channels, groups, share=0.25)
        return Run((x, weight, bias, residual, *affine(integers, sizes.channels)), call, exact)

    what = f"{tile.rows}x{tile.out}, {'groups' if grouped else 'one group'}"
    return named("post_attention", what, dtype, make)


def feed_forward_case(dtype: torch.dtype, tile: blocks.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(*arguments: Tensor) -> list[Tensor]:
            return [blocks.feed_forward(*arguments[:5], sizes.groups, "relu", *arguments[5:], EPS, tile=tile)]

        def exact(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *norm: Tensor) -> list[Expected]:
            waiting = product(hidden_of(x, w1, b1, sizes.groups), w2, b2, sizes.groups).to(x.dtype).double()
            return [normalized(waiting + x.double(), *norm)]

        # few weights, so that the norm divides by little
        arguments = mlp_arguments(sizes, integers, 12 * sizes.groups / sizes.hidden)
        return Run((*arguments, *affine(integers, sizes.channels)), call, exact)

    return named("feed_forward", f"{tile.rows}x{tile.hidden}, with norm", dtype, make)


def add_layer_norm_case(dtype: torch.dtype) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor) -> list[Tensor]:
            y = norms.add_layer_norm(x, residual, gamma, beta, EPS)
            return [y, *norms.add_layer_norm_with_statistics(x, residual, gamma, beta, EPS, NO_DROPOUT)]

        def exact(x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor) -> list[Expected]:
            total = x.double() + residual.double()
            y, deviation = normalized(total, gamma, beta), (total.var(-1, correction=0) + EPS).sqrt()
            mean = Expected("mean", total.mean(-1), rounded=True)
            return [y, y, Expected("total", total), mean, Expected("reciprocal", 1 / deviation, rounded=True)]

        x, residual = (integers(sizes.rows, sizes.channels, most=9) for _ in range(2))
        return Run((x, residual, *affine(integers, sizes.channels)), call, exact)

    return named("add_layer_norm", "with statistics and without", dtype, make)


def add_layer_norm_backward_case(dtype: torch.dtype) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        # the statistics are arguments, so they may be what leaves integers integers
        def call(
            grad: Tensor, total: Tensor, mean: Tensor, reciprocal: Tensor, gamma: Tensor
        ) -> list[Tensor | None]:
            needs = (True, True, True, True)
            arguments = grad, total, mean, reciprocal, gamma, NO_DROPOUT, needs, dtype
            return [*add_layer_norm_backward(*arguments)]

        def exact(
            grad: Tensor, total: Tensor, mean: Tensor, reciprocal: Tensor, gamma: Tensor
        ) -> list[Expected]:
            g, r = grad.double(), reciprocal.double()[:, None]
            n = (total.double() - mean.double()[:, None]) * r
            slope = g * gamma.double()
            d = (slope - slope.mean(1, keepdim=True) - n * (slope * n).mean(1, keepdim=True)) * r
            return [
                Expected("of x", d, rounded=True),
                Expected("of residual", d, rounded=True),
                Expected("of gamma", (g * n).sum(0)),
                Expected("of beta", g.sum(0)),
            ]

        grad, total = (integers(sizes.rows, sizes.channels, most=most) for most in (2, 9))
        mean = integers(sizes.rows, most=3, dtype=torch.float32)
        reciprocal = integers.given(2.0 ** integers.between(-3, -1, sizes.rows).float(), torch.float32)
        return Run((grad, total, mean, reciprocal, integers.between(1, 3, sizes.channels)), call, exact)

    return named("add_layer_norm_backward", "all", dtype, make)


def embeddings_case(dtype: torch.dtype) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        words, kinds = 1000, 2

        def call(word: Tensor, position: Tensor, kind: Tensor, *rest: Tensor) -> list[Tensor]:
            return [embeddings(word, position, kind, *rest, EPS)]

        def exact(
            word: Tensor,
            position: Tensor,
            kind: Tensor,
            ids: Tensor,
            at: Tensor,
            kinds: Tensor,
            *norm: Tensor,
        ) -> list[Expected]:
            total = word.double()[ids] + position.double()[at] + kind.double()[kinds]
            return [normalized(total, *norm)]

        tables = [integers(rows, sizes.channels, most=9) for rows in (words, sizes.tokens, kinds)]
        shape, whole = (sizes.batch, sizes.tokens), torch.int64
        ids = integers.between(0, words - 1, *shape, dtype=whole)
        ids[0, 0] = 0  # the first row has a share
        at = integers.given(torch.arange(sizes.tokens)[None], whole)
        given = ids, at, integers.between(0, kinds - 1, *shape, dtype=whole)
        return Run((*tables, *given, *affine(integers, sizes.channels)), call, exact)

    return named("embeddings", "all", dtype, make)


def quantize_case(dtype: torch.dtype) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        parts = 3

        def call(x: Tensor) -> list[Tensor]:
            return [*quantize_rows(x, parts)]

        def exact(x: Tensor) -> list[Expected]:
            by_part = x.double().unflatten(1, (parts, -1))
            scale = by_part.abs().amax(-1) / 127
            whole = (by_part / scale[..., None]).round().flatten(1)
            return [Expected("integers", whole), Expected("scale", scale, rounded=True)]

        x = integers(sizes.rows, sizes.channels, most=126)
        x.unflatten(1, (parts, -1))[..., 3] = 127.0  # the largest of its part: integers are then x's own
        return Run((x,), call, exact)

    return named("quantize_rows", "three parts", dtype, make)


def cases() -> list[Case]:
    """Of all kernels here, with all of their tiles."""
    found = [
        post_attention_case(dtype, tile, grouped)
        for dtype, tile in tiles_of(posts)
        for grouped in (False, True)
    ]
    found += [feed_forward_case(dtype, tile) for dtype, tile in tiles_of(blocks)]
    for make in (add_layer_norm_case, add_layer_norm_backward_case, embeddings_case, quantize_case):
        found += [make(dtype) for dtype in (*HALVES, torch.float32)]
    return found
