"""Grouped pointwise convolution + bias + activation: SqueezeBERT's layers (arXiv 2006.11316, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.activations import ACTIVATIONS, apply_activation
from squeezebert_fast.backends import cpu, triton
from squeezebert_fast.backends.request import Request, gradients_are_recorded, obstacle
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference


def check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None = None,
    names: tuple[str, str, str] = ("x", "weight", "bias"),
) -> None:
    """Raise ArgumentError, naming the argument by `names`, what came and what was expected."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    for name, tensor in zip(names, tensors, strict=False):
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"{name} is a {type(tensor).__name__}, expected a tensor")
    shape, in_channels = weight.shape, x.shape[-1] if x.dim() else 0
    if len(shape) != 3 or shape[2] != 1 or shape[0] == 0 or shape[1] == 0:
        raise ArgumentError(
            f"{names[1]} has shape {list(shape)}, expected [out_channels, in_channels / groups, 1], "
            "none of them 0"
        )
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1 or shape[0] % groups:
        raise ArgumentError(
            f"groups is {groups!r}, expected a positive divisor of the {shape[0]} output channels"
        )
    if in_channels != shape[1] * groups:
        raise ArgumentError(
            f"{names[0]} has shape {list(x.shape)}, expected [..., {shape[1] * groups}] for a {names[1]} "
            f"of shape {list(shape)} and {groups} groups"
        )
    if bias is not None and bias.shape != shape[:1]:
        raise ArgumentError(f"{names[2]} has shape {list(bias.shape)}, expected [{shape[0]}]")
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"{names[0]} is {x.dtype}, expected a floating dtype")
    for name, tensor in zip(names, tensors, strict=False):
        if tensor.device != x.device:
            raise ArgumentError(f"{name} is on {tensor.device}, but {names[0]} is on {x.device}")
        if tensor.dtype != x.dtype and not torch._C._is_any_autocast_enabled():
            raise ArgumentError(f"{name} is {tensor.dtype}, but {names[0]} is {x.dtype}")
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        raise ArgumentError(f"activation is {activation!r}, expected None or one of {', '.join(ACTIVATIONS)}")


class GroupedPointwiseConv(torch.autograd.Function):
    """The native forward without activation, and its gradient as three batched products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        for_x, for_weight, *_ = ctx.needs_input_grad
        # What a frozen parameter doesn't need is not kept, nor guarded against writes in place.
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
        ctx.groups, ctx.x_shape, ctx.weight_shape = groups, x.shape, weight.shape
        return cpu.grouped_pointwise_conv(x, weight, bias, groups, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        groups, in_per_group = ctx.groups, ctx.weight_shape[1]
        grad_x = grad_weight = grad_bias = None
        grads = grad.reshape(-1, groups, grad.shape[-1] // groups)  # [tokens, groups, out]
        if ctx.needs_input_grad[0]:
            weights = weight.reshape(groups, -1, in_per_group)  # [groups, out, in]
            grad_x = torch.bmm(grads.transpose(0, 1), weights).transpose(0, 1).reshape(ctx.x_shape)
        if ctx.needs_input_grad[1]:
            tokens = x.reshape(-1, groups, in_per_group)  # [tokens, groups, in]
            grad_weight = torch.bmm(grads.permute(1, 2, 0), tokens.transpose(0, 1)).reshape(ctx.weight_shape)
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
        activation: a name that transformers' `hidden_act` accepts, or None. gelu, its tanh forms, relu and
            silu are fused into the kernel.
        backend: one of auto, reference, cpu, triton, cuda; see `squeezebert_fast.backends`.
        strict: raise instead of falling back to the reference when `backend` has a kernel that can't serve
            the call.

    Returns:
        [..., out_channels] in x's dtype. Differentiable: a gradient through the native kernel is computed by
        PyTorch, and where one is needed on a GPU the reference serves, not the Triton kernel.

    Raises:
        ArgumentError: shapes, groups, dtypes or devices don't fit, or the activation is unknown.
        UnsupportedError: `strict`, and the backend can't serve.

    >>> x, weight = torch.randn(2, 7, 8), torch.randn(12, 4, 1)
    >>> grouped_pointwise_conv(x, weight, groups=2, activation="gelu").shape
    torch.Size([2, 7, 12])

    Source: arXiv 2006.11316, section 3; `nn.Conv1d` in transformers' `modeling_squeezebert.py`.
    """
    check_arguments(x, weight, bias, groups, activation)
    found, needs_grad = obstacle(x, weight, bias), gradients_are_recorded(x, weight, bias)
    request = Request("grouped_pointwise_conv", x.device, x.dtype, found, needs_grad)
    return ROUTES[backends.choose(request, backend, strict).backend](x, weight, bias, groups, activation)


def on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None) -> Tensor:
    """The native route for arguments that `check_arguments` and `backends.cpu.refusal` have passed."""
    if gradients_are_recorded(
        x, weight, bias
    ):  # the activation stays apart, so that its own gradient formula serves
        return apply_activation(activation, GroupedPointwiseConv.apply(x, weight, bias, groups))
    if activation in cpu.FUSED_ACTIVATIONS:
        return cpu.grouped_pointwise_conv(x, weight, bias, groups, activation)
    return apply_activation(activation, cpu.grouped_pointwise_conv(x, weight, bias, groups, None))


Route = Callable[[Tensor, Tensor, "Tensor | None", int, "str | None"], Tensor]

ROUTES: dict[str, Route] = {
    "reference": reference.grouped_pointwise_conv,
    "cpu": on_cpu,
    "triton": triton.grouped_pointwise_conv,
}
"""What runs for each backend that `backends.choose` can name, on checked arguments."""
