"""Exact cases of grouped products: forward, transposed, derivative, weights' gradients, feed-forward block, int8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.exact import Case, Expected, Integers, Run, Sizes, named
from squeezebert_fast.triton_kernels import feed_forward as blocks
from squeezebert_fast.triton_kernels import feed_forward_backward as blocks_back
from squeezebert_fast.triton_kernels import grouped_pointwise_conv as products
from squeezebert_fast.triton_kernels import grouped_pointwise_conv_int8 as products_int8
from squeezebert_fast.triton_kernels import weight_gradient as weights
from squeezebert_fast.triton_kernels.qkv_projection import qkv_input_gradient, qkv_projection

HALVES = (torch.bfloat16, torch.float16)


def table(module: Any, dtype: torch.dtype) -> Sequence[Any]:
    """The tiles that a kernel ships for a dtype: all of them in bfloat16 and float32, the first in float16."""
    if dtype is torch.float32:
        return module.TILES_FLOAT32
    return module.TILES if dtype is torch.bfloat16 else module.TILES[:1]


def tiles_of(module: Any) -> Iterator[tuple[torch.dtype, Any]]:
    """(dtype, tile) of all that a module's tables have."""
    for dtype in (*HALVES, torch.float32):
        for tile in table(module, dtype):
            yield dtype, tile


def product(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """x weight^T + bias, group by group, in float64. x: [rows, groups * in]; weight: [groups * out, in, ...]."""
    of_group = weight.double().flatten(1).unflatten(0, (groups, -1))
    y = torch.einsum("rgi,goi->rgo", x.double().unflatten(1, (groups, -1)), of_group).flatten(1)
    return y if bias is None else y + bias.double()


def transposed(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The gradient of `product`'s x, x being that of its result, in float64."""
    of_group = weight.double().flatten(1).unflatten(0, (groups, -1))
    return torch.einsum("rgo,goi->rgi", x.double().unflatten(1, (groups, -1)), of_group).flatten(1)


def of_weight(grad: Tensor, x: Tensor, groups: int) -> Tensor:
    """The gradient of `product`'s weight, [groups * out, in, 1], in float64."""
    by_group = (t.double().unflatten(1, (groups, -1)) for t in (grad, x))
    return torch.einsum("rgo,rgi->goi", *by_group).flatten(0, 1)[..., None]


def conv(
    integers: Integers, channels: int, out: int, groups: int, share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a product."""
    return integers(out, channels // groups, 1, most=1, share=share), integers(out, most=3)


def forward_case(dtype: torch.dtype, tile: products.Tile, activation: str | None) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        groups = sizes.groups if activation else 1

        def call(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
            return [products.grouped_pointwise_conv(x, weight, bias, groups, activation, tile=tile)]

        def exact(x: Tensor, weight: Tensor, bias: Tensor) -> list[Expected]:
            y = product(x, weight, bias, groups)
            return [Expected("y", y.relu() if activation else y)]

        x = integers(sizes.rows, sizes.channels)
        return Run((x, *conv(integers, sizes.channels, sizes.hidden, groups)), call, exact)

    what = f"{tile.rows}x{tile.columns}, {'relu' if activation else 'one group'}"
    return named("grouped_pointwise_conv", what, dtype, make)


def input_gradient_case(dtype: torch.dtype, tile: products.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(grad: Tensor, weight: Tensor) -> list[Tensor]:
            return [
                products.grouped_pointwise_conv(grad, weight, None, sizes.groups, transposed=True, tile=tile)
            ]

        def exact(grad: Tensor, weight: Tensor) -> list[Expected]:
            return [Expected("of x", transposed(grad, weight, sizes.groups))]

        weight, _ = conv(integers, sizes.channels, sizes.hidden, sizes.groups)
        return Run((integers(sizes.rows, sizes.hidden), weight), call, exact)

    return named("grouped_pointwise_conv", f"{tile.rows}x{tile.columns}, transposed", dtype, make)


def derivative_case(dtype: torch.dtype, tile: products.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
            return [products.derivative(grad, x, weight, bias, sizes.groups, "relu", tile=tile)]

        def exact(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> list[Expected]:
            positive = product(x, weight, bias, sizes.groups) > 0
            return [Expected("of z", grad.double() * positive)]

        grad, x = integers.between(1, 9, sizes.rows, sizes.channels), integers(sizes.rows, sizes.channels)
        return Run((grad, x, *conv(integers, sizes.channels, sizes.channels, sizes.groups)), call, exact)

    return named("grouped_pointwise_conv", f"{tile.rows}x{tile.columns}, derivative", dtype, make)


def projections_case(dtype: torch.dtype, tile: products.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(x: Tensor, *parameters: Tensor) -> Sequence[Tensor]:
            return qkv_projection(x, parameters[::2], parameters[1::2], sizes.groups, tile=tile)

        def exact(x: Tensor, *parameters: Tensor) -> list[Expected]:
            of_each = zip("qkv", parameters[::2], parameters[1::2], strict=True)
            return [Expected(name, product(x, weight, bias, sizes.groups)) for name, weight, bias in of_each]

        of_each = (conv(integers, sizes.channels, sizes.channels, sizes.groups) for _ in range(3))
        return Run(
            (integers(sizes.rows, sizes.channels), *(t for pair in of_each for t in pair)), call, exact
        )

    return named("qkv_projection", f"{tile.rows}x{tile.columns}", dtype, make)


def projections_backward_case(dtype: torch.dtype, tile: products.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(*pairs: Tensor) -> list[Tensor]:
            return [qkv_input_gradient(pairs[:3], pairs[3:], sizes.groups, tile=tile)]

        def exact(*pairs: Tensor) -> list[Expected]:
            of_each = zip(pairs[:3], pairs[3:], strict=True)
            return [Expected("of x", sum(transposed(grad, w, sizes.groups) for grad, w in of_each))]

        grads = [integers(sizes.rows, sizes.channels) for _ in range(3)]
        weights = [conv(integers, sizes.channels, sizes.channels, sizes.groups)[0] for _ in range(3)]
        return Run((*grads, *weights), call, exact)

    return named("qkv_projection", f"{tile.rows}x{tile.columns}, of x", dtype, make)


def weight_gradient_case(dtype: torch.dtype, tile: products.Tile, parts: int, turned: bool = False) -> Case:
    """turned: of the product that makes fewer channels of many."""

    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(grad: Tensor, x: Tensor) -> list[Tensor | None]:
            return [*weights.weight_gradient(grad, x, sizes.groups, bias=True, parts=parts, tile=tile)]

        def exact(grad: Tensor, x: Tensor) -> list[Expected]:
            of_bias = grad.double().sum(0)
            return [
                Expected("of weight", of_weight(grad, x, sizes.groups)),
                Expected("of bias", of_bias),
            ]

        of_y, of_x = (sizes.channels, sizes.hidden) if turned else (sizes.hidden, sizes.channels)
        return Run((integers(sizes.rows, of_y), integers(sizes.rows, of_x)), call, exact)

    what = f"{tile.blocks} x {tile.out}x{tile.depth}, {parts} parts" + (
        ", many channels in" if turned else ""
    )
    return named("weight_gradient", what, dtype, make)


def mlp_arguments(sizes: Sizes, integers: Integers, share: float) -> list[Tensor]:
    """x, and weights and biases of both products; share: of the second one's weights."""
    x, hidden = integers(sizes.rows, sizes.channels), sizes.hidden
    into = conv(integers, sizes.channels, hidden, sizes.groups)
    return [x, *into, *conv(integers, hidden, sizes.channels, sizes.groups, share)]


def hidden_of(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The hidden tensor with relu, rounded as it meets the second product."""
    return product(x, weight, bias, groups).relu().to(x.dtype)


def mlp_case(dtype: torch.dtype, tile: blocks.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(*arguments: Tensor) -> list[Tensor]:
            return [blocks.grouped_mlp(*arguments, sizes.groups, "relu", tile=tile)]

        def exact(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> list[Expected]:
            hidden = hidden_of(x, w1, b1, sizes.groups)
            return [Expected("y", product(hidden, w2, b2, sizes.groups))]

        return Run(mlp_arguments(sizes, integers, 0.5), call, exact)

    return named("feed_forward", f"{tile.rows}x{tile.hidden}, grouped_mlp", dtype, make)


def mlp_backward_exact(
    grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """(hidden, of z), in the dtype in which they are in memory."""
    z = product(x, w1, b1, groups)
    return z.relu().to(x.dtype), (transposed(grad, w2, groups) * (z > 0)).to(x.dtype)


def mlp_backward_arguments(sizes: Sizes, integers: Integers) -> list[Tensor]:
    x, w1, b1, w2, _ = mlp_arguments(sizes, integers, 0.25)
    return [integers(sizes.rows, sizes.channels), x, w1, b1, w2]


def hidden_gradient_case(dtype: torch.dtype, tile: products.Tile) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        def call(*arguments: Tensor) -> Sequence[Tensor | None]:
            return blocks_back.hidden_gradient(*arguments, sizes.groups, "relu", keep_hidden=True, tile=tile)

        def exact(*arguments: Tensor) -> list[Expected]:
            hidden, of_z = mlp_backward_exact(*arguments, sizes.groups)
            return [Expected("hidden", hidden.double()), Expected("of z", of_z.double())]

        return Run(mlp_backward_arguments(sizes, integers), call, exact)

    return named("feed_forward_backward", f"{tile.rows}x{tile.out}, of hidden", dtype, make)


def mlp_backward_case(dtype: torch.dtype) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        groups = sizes.groups

        def call(*arguments: Tensor) -> Sequence[Tensor | None]:
            return blocks_back.grouped_mlp_backward(*arguments, groups, "relu", (True,) * 5)

        def exact(grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> list[Expected]:
            hidden, of_z = mlp_backward_exact(grad, x, w1, b1, w2, groups)
            return [
                Expected("of x", transposed(of_z, w1, groups)),
                Expected("of weight_in", of_weight(of_z, x, groups)),
                Expected("of bias_in", of_z.double().sum(0)),
                Expected("of weight_out", of_weight(grad, hidden, groups)),
                Expected("of bias_out", grad.double().sum(0)),
            ]

        return Run(mlp_backward_arguments(sizes, integers), call, exact)

    return named("feed_forward_backward", "all", dtype, make)


def int8_case(dtype: torch.dtype, tile: products.Tile, cut: int) -> Case:
    """cut: blocks of a group, with scales of their own: powers of two, so that nothing is rounded."""

    def make(sizes: Sizes, integers: Integers) -> Run:
        groups, out = sizes.groups, sizes.hidden

        def scales(*shape: int) -> Tensor:
            return integers.given(2.0 ** integers.between(-5, -4, *shape, dtype=torch.float32), torch.float32)

        def call(x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> list[Tensor]:
            run = products_int8.grouped_pointwise_conv_int8
            return [run(x, x_scale, weight, scale, bias, groups, "relu", dtype, tile=tile)]

        def exact(x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> list[Expected]:
            wide = (x.double().unflatten(1, (groups * cut, -1)) * x_scale.double()[..., None]).flatten(1)
            of_block = weight[..., 0].double().unflatten(1, (cut, -1)) * scale.double()[..., None]
            return [Expected("y", product(wide, of_block.flatten(1), bias, groups).relu())]

        x = integers(sizes.rows, sizes.channels, most=127, dtype=torch.int8)
        weight = integers(out, sizes.channels // groups, 1, most=127, dtype=torch.int8)
        inputs = (x, scales(sizes.rows, groups * cut), weight, scales(out, cut), integers(out))
        return Run(inputs, call, exact)

    return named("grouped_pointwise_conv_int8", f"{tile.rows}x{tile.out}, {cut} blocks", dtype, make)


def cases() -> list[Case]:
    """Of all product kernels, with all of their tiles."""
    found = []
    for dtype, tile in tiles_of(products):
        found += [forward_case(dtype, tile, activation) for activation in (None, "relu")]
        found += [input_gradient_case(dtype, tile), derivative_case(dtype, tile)]
        found += [projections_case(dtype, tile), projections_backward_case(dtype, tile)]
    for dtype, tile in tiles_of(weights):
        found += [weight_gradient_case(dtype, tile, parts) for parts in (1, 3)]
        found.append(weight_gradient_case(dtype, tile, 1, turned=True))
    found += [mlp_case(dtype, tile) for dtype, tile in tiles_of(blocks)]
    found += [hidden_gradient_case(dtype, tile) for dtype, tile in tiles_of(blocks_back)]
    found += [mlp_backward_case(dtype) for dtype in (*HALVES, torch.float32)]
    for tile in products_int8.TILES:
        found += [int8_case(torch.bfloat16, tile, cut) for cut in (1, 3)]
    return [
        *found,
        *(int8_case(dtype, products_int8.TILES[0], 1) for dtype in (torch.float16, torch.float32)),
    ]
