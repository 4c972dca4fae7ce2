"""The CPU's training kernels: forwards that keep little, and the backwards that recompute the rest.

Arguments are checked and contiguous float32, on the CPU, but where a function says otherwise. Results are new
tensors that are not part of any graph. Dropout's mask is a function of the seed and an element's place alone, so
that a backward, or a second forward under gradient checkpointing, draws the same one, on any number of threads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from squeezebert_fast.activations import apply_activation
from squeezebert_fast.backends import cpu


def _kept(seed: int, shape: torch.Size, p: float) -> Tensor:
    """What dropout multiplies by: 0, or 1 / (1 - p)."""
    if p == 1.0:
        return torch.zeros(shape)
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (numbers >= p) / (1.0 - p)


def _through(grad: Tensor, before: Tensor, activation: str | None) -> Tensor:
    """The gradient before the activation."""
    if activation is None:
        return grad
    name = cpu.FUSED_ACTIVATIONS[activation].name
    aten = torch.ops.aten
    if name == "relu":
        return aten.threshold_backward(grad, before, 0)
    if name == "silu":
        return aten.silu_backward(grad, before)
    return aten.gelu_backward(grad, before, approximate="tanh" if name == "gelu_tanh" else "none")


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    weights = weight.reshape(groups, -1, weight.shape[1])
    y = torch.einsum("...gi,goi->...go", x.unflatten(-1, (groups, -1)), weights).flatten(-2)
    return y if bias is None else y + bias


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    q, k = _heads(q, num_heads), _heads(k, num_heads)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores if mask is None else scores + mask


@torch.autocast("cpu", enabled=False)
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

    grad: [..., out_channels]; x: [..., in_channels]. The result before the activation is computed again. Without an
    activation, x may be None where the weight needs no gradient, and the weight where x needs none.
    """
    if activation is not None:
        assert x is not None
        assert weight is not None
        grad = _through(grad, _conv(x, weight, bias, groups), activation)
    grads = grad.reshape(-1, groups, grad.shape[-1] // groups)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        assert weight is not None
        weights = weight.reshape(groups, -1, weight.shape[1])
        grad_x = torch.bmm(grads.transpose(0, 1), weights).transpose(0, 1)
        grad_x = grad_x.reshape(*grad.shape[:-1], weight.shape[1] * groups)
    if needs[1]:
        assert x is not None
        tokens = x.reshape(-1, groups, x.shape[-1] // groups)
        grad_weight = torch.bmm(grads.permute(1, 2, 0), tokens.transpose(0, 1))
        grad_weight = grad_weight.reshape(grad.shape[-1], -1, 1)
    if needs[2]:
        grad_bias = grads.sum(0).reshape(-1)
    return grad_x, grad_weight, grad_bias


@torch.autocast("cpu", enabled=False)
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
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight_in, bias_in, weight_out, bias_out, each where `needs` has True.

    grad: [..., out_channels]; x: [..., channels]. The hidden tensor is computed again, and never whole.
    """
    before = _conv(x, weight_in, bias_in, groups)
    hidden = apply_activation(activation, before)
    of_hidden, of_weight, of_bias = grouped_pointwise_conv_backward(
        grad, hidden, weight_out, bias_out, groups, None, (any(needs[:3]), needs[3], needs[4])
    )
    if of_hidden is None:
        return None, None, None, of_weight, of_bias
    inner = grouped_pointwise_conv_backward(
        _through(of_hidden, before, activation), x, weight_in, bias_in, groups, None, needs[:3]
    )
    return (*inner, of_weight, of_bias)


def _heads(t: Tensor, num_heads: int) -> Tensor:
    return t.unflatten(-1, (num_heads, -1)).transpose(1, 2)


@torch.autocast("cpu", enabled=False)
def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, num_heads: int, dropout_p: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The result, [batch, queries, channels], and each row's log-sum-exp, [batch, num_heads, queries].

    q: [batch, queries, channels]; k, v: [batch, keys, channels]; mask: [batch or 1, num_heads or 1, queries or 1,
    keys], any strides but the last, which is 1; or None. seed: 64 bits.
    """
    scores = _scores(q, k, mask, num_heads)
    p = scores.softmax(-1)
    if dropout_p > 0.0:
        p = p * _kept(seed, p.shape, dropout_p)
    return torch.matmul(p, _heads(v, num_heads)).transpose(1, 2).flatten(2).contiguous(), scores.logsumexp(-1)


@torch.autocast("cpu", enabled=False)
def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    result: Tensor,
    log_sum_exp: Tensor,
    num_heads: int,
    dropout_p: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from `attention`'s arguments and results."""
    p = _scores(q, k, mask, num_heads).softmax(-1)
    kept = _kept(seed, p.shape, dropout_p) if dropout_p > 0.0 else torch.ones(())
    grads, q, k, v = (_heads(t, num_heads) for t in (grad, q, k, v))
    of_p = torch.matmul(grads, v.mT) * kept
    of_scores = p * (of_p - (of_p * p).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    of_q, of_k, of_v = of_scores @ k, of_scores.mT @ q, (p * kept).mT @ grads
    of_q, of_k, of_v = (t.transpose(1, 2).flatten(2).contiguous() for t in (of_q, of_k, of_v))
    return of_q, of_k, of_v


@torch.autocast("cpu", enabled=False)
def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`layer_norm(dropout(x) + residual)`, then what the backward needs.

    That is the sum before the norm, and each row's mean and reciprocal deviation, [...].
    """
    if dropout_p > 0.0:
        x = torch.where((kept := _kept(seed, x.shape, dropout_p)) > 0, x * kept, 0.0)
    total = x + residual
    y, mean, reciprocal = torch.native_layer_norm(total, x.shape[-1:], weight, bias, eps)
    return y, total, mean[..., 0], reciprocal[..., 0]


@torch.autocast("cpu", enabled=False)
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
    """Gradients of x, residual, weight, bias, each where `needs` has True."""
    of_total, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        grad, total, total.shape[-1:], mean[..., None], reciprocal[..., None], weight, weight, [True] * 3
    )
    of_x = of_total * _kept(seed, total.shape, dropout_p) if dropout_p > 0.0 else of_total.clone()
    found = (of_x, of_total, of_weight, of_bias)
    return tuple(g if needed else None for g, needed in zip(found, needs, strict=True))  # type: ignore[return-value]
