"""The three passes of a layer with int8 weights and activations, as the CPU engine has them.

    A   x -> integers once -> q, k, v (int8 products) -> attention in x's dtype
    B   context -> integers -> int8 product -> dropout-free residual + LayerNorm
    C   y -> integers -> int8 product, activation -> integers -> int8 product -> residual + LayerNorm

Softmax, LayerNorm, GELU, bias and residual are float32 inside their kernels, as everywhere. The passes are
sequences of kernels here, not one kernel each: integers need the largest magnitude of a whole part of a row
before the first of them can be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm
from squeezebert_fast.triton_kernels.attend import Sequences
from squeezebert_fast.triton_kernels.attention import attention
from squeezebert_fast.triton_kernels.grouped_pointwise_conv_int8 import grouped_pointwise_conv_int8
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows


class Int8Conv(NamedTuple):
    """A grouped pointwise convolution: int8 [out, in / groups, 1], float32 scales [out, blocks], bias [out]
    or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    groups: int

    @property
    def parts(self) -> int:
        """Into how many parts with scales of their own a row of its inputs is cut."""
        return self.groups * self.scale.shape[1]


def conv(x: Tensor, by: Int8Conv, activation: str | None = None) -> Tensor:
    """`grouped_pointwise_conv` of x, of any floating dtype, in int8; the result in x's dtype."""
    return product(quantize_rows(x, by.parts), by, activation, x.dtype)


def product(x: tuple[Tensor, Tensor], by: Int8Conv, activation: str | None, dtype: torch.dtype) -> Tensor:
    """`conv` of rows that are quantized already: integers and scales."""
    return grouped_pointwise_conv_int8(*x, by.weight, by.scale, by.bias, by.groups, activation, dtype)


def self_attention(
    x: Tensor,
    projections: Sequence[Int8Conv],
    num_heads: int,
    mask: Tensor | None,
    sequences: Sequences | None = None,
    *,
    attends: Tensor | None = None,
) -> Tensor:
    """Pass A: `attention.self_attention` with q, k and v by int8 products. Their `parts` must be equal."""
    assert len({by.parts for by in projections}) == 1, "q, k and v read the same integers"
    integers = quantize_rows(x, projections[0].parts)
    q, k, v = (product(integers, by, None, x.dtype) for by in projections)
    context = attention(q, k, v, mask, num_heads, attends=attends, sequences=sequences)
    assert isinstance(context, Tensor)
    return context


def conv_add_layer_norm(
    x: Tensor, by: Int8Conv, residual: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """Pass B: `layer_norm(conv(x) + residual) * gamma + beta`."""
    y = add_layer_norm(conv(x, by), residual, gamma, beta, eps)
    assert isinstance(y, Tensor)
    return y


def feed_forward(
    x: Tensor,
    into: Int8Conv,
    out: Int8Conv,
    activation: str | None,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    """Pass C: `layer_norm(conv(activation(conv(x))) + x) * gamma + beta`; the groups of the two may differ."""
    return conv_add_layer_norm(conv(x, into, activation), out, x, gamma, beta, eps)
