"""The definition of every operation, in plain PyTorch.

These functions are what the kernels are tested against, what a model runs on before it is patched, and what a
backend falls back to. They accept every floating dtype, device, stride and shape that PyTorch accepts, are
differentiable, and follow transformers' `modeling_squeezebert.py` in the order of operations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.activations import apply_activation


def grouped_pointwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1, activation: str | None = None
) -> Tensor:
    """`activation(conv1d(x, weight, bias, kernel_size=1, groups))` over the last axis of `x`.

    x: [..., in_channels]; weight: [out_channels, in_channels / groups, 1], or without the last axis; bias:
    [out_channels] or None. Returns [..., out_channels].
    """
    if groups == 1:  # the same product; a matrix product is a far better kernel than a convolution
        y = F.linear(x, weight if weight.dim() == 2 else weight.squeeze(-1), bias)
    else:
        # [1, channels, tokens]; conv1d takes no tokens only as an empty batch
        tokens = x.reshape(1, -1, x.shape[-1]).transpose(1, 2) if x.numel() else x.reshape(0, x.shape[-1], 1)
        weight = weight if weight.dim() == 3 else weight.unsqueeze(-1)
        y = F.conv1d(tokens, weight, bias, groups=groups).transpose(1, 2)
        y = y.reshape(*x.shape[:-1], weight.shape[0])
    return apply_activation(activation, y)


def qkv_projection(
    x: Tensor,
    weight_q: Tensor,
    bias_q: Tensor | None,
    weight_k: Tensor,
    bias_k: Tensor | None,
    weight_v: Tensor,
    bias_v: Tensor | None,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Three grouped pointwise convolutions of one input: a layer's queries, keys and values."""
    return (
        grouped_pointwise_conv(x, weight_q, bias_q, groups),
        grouped_pointwise_conv(x, weight_k, bias_k, groups),
        grouped_pointwise_conv(x, weight_v, bias_v, groups),
    )


def attention_scores(q: Tensor, k: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    """Masked scores before softmax, [batch, heads, queries, keys]: what transformers returns as `attentions`.

    q: [batch, queries, channels]; k: [batch, keys, channels]; mask: None, or added and broadcastable to the
    result.
    """
    head_size = q.shape[-1] // num_heads
    q = q.unflatten(-1, (num_heads, head_size)).transpose(1, 2)
    k = k.unflatten(-1, (num_heads, head_size)).permute(0, 2, 3, 1)
    scores = torch.matmul(q, k) / math.sqrt(head_size)
    return scores if mask is None else scores + mask


def attention_context(scores: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
    """`dropout(softmax(scores)) v` with the heads joined again: [batch, queries, channels]."""
    probabilities = torch.softmax(scores, dim=-1)
    if dropout_p > 0.0:
        probabilities = F.dropout(probabilities, dropout_p)
    heads = v.unflatten(-1, (scores.shape[1], -1)).transpose(1, 2)
    return torch.matmul(probabilities, heads).transpose(1, 2).flatten(2)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, num_heads: int = 1, dropout_p: float = 0.0
) -> Tensor:
    """`dropout(softmax(q k^T / sqrt(head_size) + mask)) v`, head by head."""
    return attention_context(attention_scores(q, k, mask, num_heads), v, dropout_p)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-12, dropout_p: float = 0.0
) -> Tensor:
    """`layer_norm(dropout(x) + residual)` over the last axis."""
    if dropout_p > 0.0:
        x = F.dropout(x, dropout_p)
    return F.layer_norm(x + residual, (x.shape[-1],), weight, bias, eps)


def dropout(x: Tensor, dropout_p: float) -> Tensor:
    """Zero each element with probability `dropout_p`, multiply the others by 1 / (1 - dropout_p)."""
    return F.dropout(x, dropout_p)


def grouped_mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int = 1,
    activation: str | None = "gelu",
) -> Tensor:
    """Two grouped pointwise convolutions with an activation between: a layer's feed-forward block."""
    hidden = grouped_pointwise_conv(x, weight_in, bias_in, groups, activation)
    return grouped_pointwise_conv(hidden, weight_out, bias_out, groups)
