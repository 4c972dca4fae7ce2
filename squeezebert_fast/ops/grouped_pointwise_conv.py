"""Grouped pointwise convolution + bias + activation: SqueezeBERT's Q, K, V and feed-forward layers (arXiv 2006.11316)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.activations import apply_activation
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import Request, obstacle
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference


def check_arguments(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """Raise ArgumentError, naming the argument, what came and what was expected."""
    if weight.dim() != 3 or weight.shape[2] != 1:
        raise ArgumentError(
            f"weight has shape {list(weight.shape)}, expected [out_channels, in_channels / groups, 1]"
        )
    out_channels, in_per_group, _ = weight.shape
    if not isinstance(groups, int) or groups < 1 or out_channels % groups:
        raise ArgumentError(
            f"groups is {groups!r}, expected a positive divisor of the {out_channels} output channels"
        )
    if x.dim() < 1 or x.shape[-1] != in_per_group * groups:
        raise ArgumentError(
            f"x has shape {list(x.shape)}, expected [..., {in_per_group * groups}] for a weight of shape "
            f"{list(weight.shape)} and {groups} groups"
        )
    if bias is not None and bias.shape != (out_channels,):
        raise ArgumentError(f"bias has shape {list(bias.shape)}, expected [{out_channels}]")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ArgumentError(f"{name} is on {tensor.device}, but x is on {x.device}")
        if tensor is not None and tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ArgumentError(f"{name} is {tensor.dtype}, but x is {x.dtype}")


class GroupedPointwiseConv(torch.autograd.Function):
    """The native forward without activation, and its gradient as three batched products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return cpu.grouped_pointwise_conv(x, weight, bias, groups, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        groups = ctx.groups
        grad_x = grad_weight = grad_bias = None
        grads = grad.reshape(-1, groups, grad.shape[-1] // groups)  # [tokens, groups, out]
        if ctx.needs_input_grad[0]:
            weights = weight.view(groups, -1, weight.shape[1])  # [groups, out, in]
            grad_x = torch.bmm(grads.transpose(0, 1), weights).transpose(0, 1).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            tokens = x.reshape(-1, groups, weight.shape[1])  # [tokens, groups, in]
            grad_weight = torch.bmm(grads.permute(1, 2, 0), tokens.transpose(0, 1)).reshape(weight.shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grads.sum(0).reshape(-1)
        return grad_x, grad_weight, grad_bias, None


def grouped_pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    groups: int = 1,
    activation: str | None = None,
    *,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`activation(conv1d(x, weight, bias, kernel_size=1, groups))` over the last axis.

    Args:
        x: [..., in_channels], any floating dtype, any strides.
        weight: [out_channels, in_channels / groups, 1], as `nn.Conv1d` holds it.
        bias: [out_channels] or None.
        groups: output channels of group i depend on input channels of group i alone.
        activation: a name that transformers' `hidden_act` accepts, or None. gelu, its tanh forms, relu and silu are
            fused into the kernel.
        backend: one of auto, reference, cpu, triton, cuda; see `squeezebert_fast.backends`.
        strict: raise instead of falling back to the reference when `backend` has a kernel that can't serve the call.

    Returns:
        [..., out_channels] in x's dtype. Differentiable; a gradient through the native kernel is computed by PyTorch.

    Raises:
        ArgumentError: shapes, groups, dtypes or devices don't fit, or the activation is unknown.
        UnsupportedError: `strict`, and the backend can't serve.

    >>> x, weight = torch.randn(2, 7, 8), torch.randn(12, 4, 1)
    >>> grouped_pointwise_conv(x, weight, groups=2, activation="gelu").shape
    torch.Size([2, 7, 12])

    Source: arXiv 2006.11316, section 3; `nn.Conv1d` in transformers' `modeling_squeezebert.py`.
    """
    check_arguments(x, weight, bias, groups)
    request = Request("grouped_pointwise_conv", x.device, x.dtype, obstacle(x, weight, bias))
    if backends.choose(request, backend, strict).backend == "cpu":
        return on_cpu(x, weight, bias, groups, activation)
    return reference.grouped_pointwise_conv(x, weight, bias, groups, activation)


def on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None) -> Tensor:
    """The native route for arguments that `check_arguments` and `backends.cpu.refusal` have passed."""
    needs_grad = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    if needs_grad:  # the activation stays apart, so that its own gradient formula serves
        return apply_activation(activation, GroupedPointwiseConv.apply(x, weight, bias, groups))
    if activation in cpu.FUSED_ACTIVATIONS:
        return cpu.grouped_pointwise_conv(x, weight, bias, groups, activation)
    return apply_activation(activation, cpu.grouped_pointwise_conv(x, weight, bias, groups, None))
