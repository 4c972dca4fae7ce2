"""`grouped_pointwise_conv` on kernels that train. Kept for the backward: x and the weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.ops.gradients.routes import Differentiable, Gradients, needed, through_definition


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _backward_fake(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    needs: list[bool],
) -> list[Tensor]:
    in_channels = 0 if x is None else x.shape[-1]
    in_channels = in_channels if weight is None else weight.shape[1] * groups
    out_channels = grad.shape[-1]
    of_x = (*grad.shape[:-1], in_channels), grad.dtype
    of_weight = (out_channels, in_channels // groups, 1), torch.float32
    return needed(needs, grad, [of_x, of_weight, ((out_channels,), torch.float32)])


def _save(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, weight, bias, *ctx.options = inputs
    for_x, for_weight, *_ = ctx.needs_input_grad
    # An activation's derivative needs what was before it, which is computed again. What a frozen parameter doesn't
    # need is not kept, nor guarded against writes in place.
    again = ctx.options[1] is not None
    ctx.save_for_backward(
        x if for_weight or again else None, weight if for_x or again else None, bias if again else None
    )
    ctx.shapes = x.shape, weight.shape


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor | None) -> Gradients:
    if grad is None:
        return (None, None, None)
    return kernel(grad, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[:3])


def _definition(ctx: Any, grad: Tensor | None) -> Gradients:
    if grad is None:
        return (None, None, None)
    x, weight, bias = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    # what wasn't kept has no say in the gradients that are needed
    x = grad.new_zeros(ctx.shapes[0]) if x is None else x
    weight = grad.new_zeros(ctx.shapes[1]) if weight is None else weight
    bias = grad.new_zeros(ctx.shapes[1][:1]) if bias is None and needs[2] else bias

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bias = bias if bias is None else bias.to(x.dtype)
        return reference.grouped_pointwise_conv(x, weight.to(x.dtype), bias, *ctx.options)

    return through_definition(conv, (x, weight, bias), needs, grad)


grouped_pointwise_conv = Differentiable(
    "grouped_pointwise_conv",
    forward=(
        "(Tensor x, Tensor weight, Tensor? bias, int groups, str? activation) -> Tensor",
        _fake,
    ),
    backward=(
        "(Tensor grad, Tensor? x, Tensor? weight, Tensor? bias, int groups, str? activation, bool[] needs) -> Tensor[]",
        _backward_fake,
    ),
    save=_save,
    gradients=_gradients,
    definition=_definition,
)
