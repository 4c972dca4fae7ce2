"""The CPU's training kernels: forwards that keep little, and backwards that compute the rest again.

Arguments are checked, contiguous and float32, on the CPU, but where a function says otherwise. Results are new
tensors that are not part of any graph. Dropout's mask is a function of the seed and an element's place alone: a
backward, or a second forward under gradient checkpointing, draws the same one, on any number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu


def grouped_pointwise_conv_backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias, each where `needs` has True.

    grad: [..., out_channels]; x: [..., in_channels]. The result before the activation is computed again. x may be None
    where neither that nor the weight's gradient needs it, and the weight likewise.
    """
    if activation is not None:
        assert x is not None
        assert weight is not None
        z = cpu.grouped_pointwise_conv(x, weight, bias, groups, None)
        grad = grad.clone()
        _activation_backward(activation, z, grad, keep=False)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        assert weight is not None
        grad_x = cpu.run_packed(cpu.pack_transposed(weight, groups), grad, None, None)
    if needs[2]:
        grad_bias = grad.new_empty(grad.shape[-1])
    if needs[1]:
        assert x is not None
        grad_weight = grad.new_empty((grad.shape[-1], x.shape[-1] // groups, 1))
    _weight_gradient(grad, x, groups, grad_weight, grad_bias)
    return grad_x, grad_weight, grad_bias


def grouped_mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
) -> Tensor:
    """Both products, [..., out_channels]; the hidden tensor is never in main memory. x: [..., channels]."""
    y = x.new_empty((*x.shape[:-1], weight_out.shape[0]))
    cpu.packed_mlp(weight_in, weight_out, groups).run(
        x.data_ptr(),
        x.numel() // x.shape[-1],
        _addresses(bias_in, bias_out),
        y.data_ptr(),
        cpu.FUSED_ACTIVATIONS[activation],
        torch.get_num_threads(),
    )
    return y


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
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight_in, bias_in, weight_out and bias_out, each where `needs` has True.

    grad: [..., out_channels]; x: [..., channels]. The hidden tensor is computed again, and never in main memory.
    """
    native: Any = cpu._native
    for_x, for_in, for_bias_in, for_out, for_bias_out = needs
    # the sums that are a bias's gradient are found on the way to its weight's
    likes = (x, weight_in, bias_in, weight_out, bias_out)
    wanted = (for_x, for_in or for_bias_in, for_bias_in, for_out or for_bias_out, for_bias_out)
    gradients = [_empty_like(t, want) for t, want in zip(likes, wanted, strict=True)]
    native.grouped_mlp_backward(
        cpu.instruction_set(),
        (x.numel() // x.shape[-1], groups, x.shape[-1], weight_in.shape[0], weight_out.shape[0]),
        cpu.FUSED_ACTIVATIONS[activation],
        _addresses(x, grad),
        _addresses(weight_in, bias_in, weight_out),
        _addresses(*gradients),
        torch.get_num_threads(),
    )
    return tuple(g if needed else None for g, needed in zip(gradients, needs, strict=True))


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, num_heads: int, dropout_p: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The result, [batch, queries, channels], and what the backward needs, [batch, num_heads, queries, 2]: each row's
    largest score and the reciprocal of its exponentials' sum.

    q: [batch, queries, channels]; k, v: [batch, keys, channels]; mask: None, or one that broadcasts to [batch,
    num_heads, queries, keys], with any strides but the last one, which is 1. seed: 64 bits.
    """
    native: Any = cpu._native
    result = torch.empty_like(q)
    statistics = q.new_empty((q.shape[0], num_heads, q.shape[1], 2))
    if q.numel() == 0 or k.numel() == 0:
        return result.zero_(), statistics.zero_()
    arguments = _attention_arguments(q, k, v, mask, num_heads, dropout_p, seed, statistics)
    native.attention_forward(*arguments, result.data_ptr(), torch.get_num_threads())
    return result, statistics


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
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from `attention`'s arguments and results."""
    native: Any = cpu._native
    gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if q.numel() == 0 or k.numel() == 0:
        return gradients[0].zero_(), gradients[1].zero_(), gradients[2].zero_()
    arguments = _attention_arguments(q, k, v, mask, num_heads, dropout_p, seed, statistics)
    native.attention_backward(
        *arguments,
        result.data_ptr(),
        grad.data_ptr(),
        [each.data_ptr() for each in gradients],
        torch.get_num_threads(),
    )
    return gradients


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`layer_norm(dropout(x) + residual)`, and what the backward needs.

    That is the sum before the norm, and each row's mean and the reciprocal of its deviation, [...].
    """
    native: Any = cpu._native
    y, total = torch.empty_like(x), torch.empty_like(x)
    mean, reciprocal = (x.new_empty(x.shape[:-1]) for _ in range(2))
    channels = x.shape[-1]
    native.add_layer_norm_forward(
        cpu.instruction_set(),
        x.numel() // channels,
        channels,
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        eps,
        (dropout_p, seed),
        total.data_ptr(),
        y.data_ptr(),
        _addresses(mean, reciprocal),
        torch.get_num_threads(),
    )
    return y, total, mean, reciprocal


def add_layer_norm_backward(
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    reciprocal: Tensor,
    weight: Tensor,
    dropout_p: float,
    seed: int,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, residual, weight and bias, each where `needs` has True."""
    native: Any = cpu._native
    likes = (grad, grad, weight, weight)
    of_x, of_residual, of_weight, of_bias = (_empty_like(t, n) for t, n in zip(likes, needs, strict=True))
    gradients = of_x, of_residual, of_weight, of_bias
    channels = grad.shape[-1]
    native.add_layer_norm_backward(
        cpu.instruction_set(),
        grad.numel() // channels,
        channels,
        grad.data_ptr(),
        total.data_ptr(),
        _addresses(mean, reciprocal),
        weight.data_ptr(),
        (dropout_p, seed),
        _addresses(*gradients),
        torch.get_num_threads(),
    )
    return gradients


def _empty_like(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    return torch.empty_like(tensor) if wanted and tensor is not None else None


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _activation_backward(activation: str | None, z: Tensor, grad: Tensor, *, keep: bool) -> None:
    """z to activation(z) if `keep`, and grad to grad * activation'(z), in place."""
    native: Any = cpu._native
    name = cpu.FUSED_ACTIVATIONS[activation]
    native.activation_backward(
        cpu.instruction_set(), name, keep, z.data_ptr(), grad.data_ptr(), z.numel(), torch.get_num_threads()
    )


def _weight_gradient(
    grad: Tensor,
    x: Tensor | None,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    accumulate: bool = False,
) -> None:
    """Fill, or add to, the gradients of a grouped product's weight and bias."""
    native: Any = cpu._native
    rows = grad.numel() // grad.shape[-1]
    if weight is None:
        if bias is not None:
            total = grad.reshape(-1, grad.shape[-1]).sum(0)
            bias.copy_(bias + total if accumulate else total)
        return
    assert x is not None
    native.weight_gradient(
        cpu.instruction_set(),
        grad.data_ptr(),
        x.data_ptr(),
        (rows, groups, x.shape[-1], grad.shape[-1]),
        accumulate,
        *_addresses(weight, bias),
        torch.get_num_threads(),
    )


def _attention_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    dropout_p: float,
    seed: int,
    statistics: Tensor,
) -> tuple[Any, ...]:
    batch, queries, channels = q.shape
    keys = k.shape[1]
    strides = [0, 0, 0]
    if mask is not None:
        mask = mask.expand(batch, num_heads, queries, keys)
        strides = list(mask.stride()[:3])
    return (
        cpu.instruction_set(),
        (batch, queries, keys, num_heads, channels // num_heads),
        _addresses(q, k, v),
        0 if mask is None else mask.data_ptr(),
        strides,
        (dropout_p, seed),
        statistics.data_ptr(),
    )
