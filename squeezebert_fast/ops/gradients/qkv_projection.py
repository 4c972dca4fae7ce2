"""`qkv_projection` on kernels that train. Kept for the backward: x and the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.ops.gradients.routes import Differentiable, Gradients, needed, through_definition

Three = tuple[Tensor, Tensor, Tensor]
GRADIENTS = 7


def _fake(
    x: Tensor,
    weight_q: Tensor,
    bias_q: Tensor | None,
    weight_k: Tensor,
    bias_k: Tensor | None,
    weight_v: Tensor,
    bias_v: Tensor | None,
    groups: int,
) -> Three:
    q, k, v = (x.new_empty((*x.shape[:-1], weight_q.shape[0])) for _ in range(3))
    return q, k, v


def _backward_fake(
    grad_q: Tensor | None,
    grad_k: Tensor | None,
    grad_v: Tensor | None,
    x: Tensor | None,
    weight_q: Tensor | None,
    weight_k: Tensor | None,
    weight_v: Tensor | None,
    groups: int,
    needs: list[bool],
) -> list[Tensor]:
    grad = next(g for g in (grad_q, grad_k, grad_v) if g is not None)
    in_channels = 0 if x is None else x.shape[-1]
    in_channels = in_channels if weight_q is None else weight_q.shape[1] * groups
    out_channels = grad.shape[-1]
    of_x = (*grad.shape[:-1], in_channels), grad.dtype
    of_weight = (out_channels, in_channels // groups, 1), torch.float32
    return needed(needs, grad, [of_x, *[of_weight, ((out_channels,), torch.float32)] * 3])


def _save(ctx: Any, inputs: tuple[Any, ...], y: Three) -> None:
    x, weight_q, _, weight_k, _, weight_v, _, groups = inputs
    for_x, *for_parameters = ctx.needs_input_grad[:GRADIENTS]
    # What a frozen parameter or input doesn't need is not kept, nor guarded against writes in place.
    weights = (weight_q, weight_k, weight_v) if for_x else (None, None, None)
    ctx.save_for_backward(x if any(for_parameters[::2]) else None, *weights)
    ctx.groups, ctx.shapes = groups, (x.shape, weight_q.shape)


def _wanted(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[bool, ...]:
    """Those of the gradients that are needed and not zero."""
    for_x, *for_parameters = ctx.needs_input_grad[:GRADIENTS]
    given = [grad is not None for grad in grads for _ in ("weight", "bias")]
    return for_x and any(given), *(need and there for need, there in zip(for_parameters, given, strict=True))


def _gradients(ctx: Any, kernel: Callable[..., Gradients], *grads: Tensor | None) -> Gradients:
    needs = _wanted(ctx, grads)
    if not any(needs):
        return (None,) * GRADIENTS
    return kernel(*grads, *ctx.saved_tensors, ctx.groups, needs)


def _definition(ctx: Any, *grads: Tensor | None) -> Gradients:
    needs = _wanted(ctx, grads)
    given = [grad for grad in grads if grad is not None]
    if not any(needs):
        return (None,) * GRADIENTS
    # What wasn't kept has no say in the gradients that are needed, and no bias has any.
    shapes = ctx.shapes[0], *[ctx.shapes[1]] * 3
    x, *weights = (
        given[0].new_zeros(shape) if tensor is None else tensor
        for tensor, shape in zip(ctx.saved_tensors, shapes, strict=True)
    )
    biases = [given[0].new_zeros(shapes[1][:1]) for _ in weights]

    def projected(x: Tensor, *parameters: Tensor) -> Tensor:
        rest: list[Any] = [*(parameter.to(x.dtype) for parameter in parameters), ctx.groups]
        results = reference.qkv_projection(x, *rest)
        return torch.stack([y for y, grad in zip(results, grads, strict=True) if grad is not None])

    parameters = [tensor for pair in zip(weights, biases, strict=True) for tensor in pair]
    return through_definition(projected, (x, *parameters), needs, torch.stack(given))


qkv_projection = Differentiable(
    "qkv_projection",
    forward=(
        "(Tensor x, Tensor weight_q, Tensor? bias_q, Tensor weight_k, Tensor? bias_k, Tensor weight_v, "
        "Tensor? bias_v, int groups) -> (Tensor, Tensor, Tensor)",
        _fake,
    ),
    backward=(
        "(Tensor? grad_q, Tensor? grad_k, Tensor? grad_v, Tensor? x, Tensor? weight_q, Tensor? weight_k, "
        "Tensor? weight_v, int groups, bool[] needs) -> Tensor[]",
        _backward_fake,
    ),
    save=_save,
    gradients=_gradients,
    definition=_definition,
)
