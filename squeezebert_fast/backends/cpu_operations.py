"""The operations on the CPU's kernels, forward and backward, for float32 and bfloat16 tensors of any strides.

The kernels compute in float32. bfloat16 numbers are exact there, and so are their products, so this is what a bfloat16
multiplication with float32 sums gives. A float32 parameter beside bfloat16 inputs is rounded to bfloat16 where it is a
product's operand, as autocast does. Forwards return the inputs' dtype, backwards float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu, cpu_training

Gradients = tuple[Tensor | None, ...]


def _single(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _single_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _single(tensor)


def _operand(weight: Tensor, x: Tensor) -> Tensor:
    """`weight` as it meets x in a product."""
    return _single(weight.detach().to(x.dtype))


def grouped_pointwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None
) -> Tensor:
    """See `squeezebert_fast.ops.grouped_pointwise_conv`; `activation` is None or one that the kernels apply."""
    precision = "bfloat16" if x.dtype is torch.bfloat16 else "float32"
    return _product(x.detach().to(torch.float32), weight, bias, groups, activation, precision).to(x.dtype)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None, precision: str
) -> Tensor:
    weight, bias = _packable(weight), _single_or_none(bias)
    return cpu.grouped_pointwise_conv(x, weight, bias, groups, activation, precision)


def _packable(weight: Tensor) -> Tensor:
    """A float32 weight itself, since what is packed is kept by it, and rounded where that is asked for."""
    return weight if weight.dtype is torch.float32 else _single(weight)


def grouped_pointwise_conv_backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients of x, weight and bias, where `needs` has True.

    x may be None where neither the activation nor the weight's gradient needs it, and the weight likewise.
    """
    return cpu_training.grouped_pointwise_conv_backward(
        _single(grad),
        _single_or_none(x),
        None if weight is None else _operand(weight, grad),
        _single_or_none(bias),
        groups,
        activation,
        needs,
    )


def grouped_mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
) -> Tensor:
    """See `squeezebert_fast.ops.grouped_mlp`; `activation` is None or one that the kernels apply."""
    if x.dtype is torch.float32:
        x, weight_in, weight_out = _single(x), _packable(weight_in), _packable(weight_out)
        bias_in, bias_out = _single_or_none(bias_in), _single_or_none(bias_out)
        return cpu_training.grouped_mlp(x, weight_in, bias_in, weight_out, bias_out, groups, activation)
    hidden = _product(x.detach().to(torch.float32), weight_in, bias_in, groups, activation, "bfloat16")
    return _product(hidden, weight_out, bias_out, groups, None, "bfloat16").to(x.dtype)


def grouped_mlp_backward(
    grad: Tensor,
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    needs: tuple[bool, bool, bool, bool, bool],
) -> Gradients:
    """Gradients of x, weight_in, bias_in, weight_out and bias_out, where `needs` has True."""
    return cpu_training.grouped_mlp_backward(
        _single(grad),
        _single(x),
        _operand(weight_in, x),
        _single_or_none(bias_in),
        _operand(weight_out, x),
        _single_or_none(bias_out),
        groups,
        activation,
        needs,
    )


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `squeezebert_fast.ops.attention`. The result, and statistics of its rows: `cpu_training.attention`'s.

    seed: int64 [], for dropout.
    """
    result, statistics = cpu_training.attention(
        _single(q), _single(k), _single(v), _mask(mask, k), num_heads, dropout_p, _number(seed)
    )
    return result.to(q.dtype), statistics


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    result: Tensor,
    statistics: Tensor,
    num_heads: int,
    dropout_p: float,
    seed: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients of q, k and v, where `needs` has True, from `attention`'s arguments and results."""
    found = cpu_training.attention_backward(
        _single(grad),
        _single(q),
        _single(k),
        _single(v),
        _mask(mask, k),
        _single(result),
        statistics,
        num_heads,
        dropout_p,
        _number(seed),
    )
    return tuple(g if needed else None for g, needed in zip(found, needs, strict=True))


def _mask(mask: Tensor | None, k: Tensor) -> Tensor | None:
    """[batch or 1, heads or 1, queries or 1, keys], float32, the last axis dense."""
    if mask is None:
        return None
    mask = mask.detach().to(torch.float32)
    mask = mask[(None,) * (4 - mask.dim())].expand(-1, -1, -1, k.shape[1])
    return mask if mask.shape[3] <= 1 or mask.stride(3) == 1 else mask.contiguous()


def _number(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `squeezebert_fast.ops.add_layer_norm`. The result, the sum before the norm, and float32 row statistics."""
    y, total, mean, reciprocal = cpu_training.add_layer_norm(
        _single(x), _single(residual), _single(weight), _single(bias), eps, dropout_p, _number(seed)
    )
    dtype = torch.promote_types(x.dtype, residual.dtype)
    return y.to(dtype), total.to(dtype), mean, reciprocal


def add_layer_norm_backward(
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    reciprocal: Tensor,
    weight: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    needs: tuple[bool, bool, bool, bool],
) -> Gradients:
    """Gradients of x, residual, weight and bias, where `needs` has True, from `add_layer_norm`'s results."""
    return cpu_training.add_layer_norm_backward(
        _single(grad), _single(total), mean, reciprocal, _single(weight), dropout_p, _number(seed), needs
    )
