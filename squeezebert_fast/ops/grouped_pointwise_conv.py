"""Grouped pointwise convolution + bias + activation: SqueezeBERT's layers (arXiv 2006.11316, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.activations import ACTIVATIONS, apply_activation
from squeezebert_fast.backends.request import Gradients, autocast_dtype, autocast_to, request_for
from squeezebert_fast.errors import ArgumentError, one_of
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.differentiable import Differentiable, needed, through_reference


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
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)) or shape[0] == 0 or shape[1] == 0:
        raise ArgumentError(
            f"{names[1]} has shape {list(shape)}, expected [out_channels, in_channels / groups, 1] or "
            "[out_channels, in_channels / groups], none of them 0"
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
        if tensor.dtype != x.dtype and autocast_dtype(x.device) is None:
            raise ArgumentError(f"{name} is {tensor.dtype}, but {names[0]} is {x.dtype}")
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        raise ArgumentError(f"activation is {activation!r}, expected {one_of([*ACTIVATIONS, 'None'])}")


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
        x: [..., in_channels], any floating dtype, any strides. Kernels take float32 and bfloat16, on a GPU also
            float16.
        weight: [out_channels, in_channels / groups, 1], as `nn.Conv1d` holds it, or without the last axis, as
            `nn.Linear` does.
        bias: [out_channels] or None.
        groups: output channels of group i depend on input channels of group i alone.
        activation: a name that transformers' `hidden_act` accepts, or None. gelu, its tanh forms, relu and
            silu are fused into the kernel, on the CPU tanh too.
        backend: one of auto, reference, cpu, triton; see `squeezebert_fast.backends`.
        strict: raise instead of falling back to the reference when `backend` has a kernel that can't serve
            the call.

    Returns:
        [..., out_channels] in x's dtype, or autocast's. Differentiable, by kernels too.

    Raises:
        ArgumentError: shapes, groups, dtypes or devices don't fit, or the activation is unknown.
        UnsupportedError: `strict`, and the backend can't serve.

    >>> x, weight = torch.randn(2, 7, 8), torch.randn(12, 4, 1)
    >>> grouped_pointwise_conv(x, weight, groups=2, activation="gelu").shape
    torch.Size([2, 7, 12])

    Source: arXiv 2006.11316, section 3; `nn.Conv1d` in transformers' `modeling_squeezebert.py`.
    """
    check_arguments(x, weight, bias, groups, activation)
    request = request_for("grouped_pointwise_conv", x, weight, bias)
    chosen = backends.choose(request, backend, strict).backend
    if chosen != "reference":
        x = autocast_to(request.autocast, x)
        if activation in backends.BACKENDS[chosen].fused_activations:
            return on_kernels(chosen, x, weight, bias, groups, activation)
        return apply_activation(activation, on_kernels(chosen, x, weight, bias, groups, None))
    return reference.grouped_pointwise_conv(x, weight, bias, groups, activation)


def _fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _backward_fake(
    grad: Tensor, x: Tensor | None, weight: Tensor | None, _: Any, groups: int, *rest: Any
) -> list[Tensor]:
    in_channels = 0 if x is None else x.shape[-1]
    in_channels = in_channels if weight is None else weight.shape[1] * groups
    out_channels = grad.shape[-1]
    of_x = (*grad.shape[:-1], in_channels), grad.dtype
    of_weight = (out_channels, in_channels // groups, 1), torch.float32
    return needed(rest[-1], grad, [of_x, of_weight, ((out_channels,), torch.float32)])


def _kept(inputs: tuple[Any, ...], y: Tensor, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    x, weight, bias, _, activation = inputs
    # An activation's derivative needs what was before it, which is computed again. What a frozen parameter doesn't
    # need is not kept, nor guarded against writes in place.
    again = activation is not None
    return x if needs[1] or again else None, weight if needs[0] or again else None, bias if again else None


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor) -> Gradients:
    return kernel(grad, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[:3])


def _definition(ctx: Any, grad: Tensor) -> Gradients:
    return through_reference(ctx, reference.grouped_pointwise_conv, ctx.needs_input_grad[:3], grad)


on_kernels = Differentiable(
    "grouped_pointwise_conv",
    fake=_fake,
    backward_fake=_backward_fake,
    kept=_kept,
    gradients=_gradients,
    definition=_definition,
)
