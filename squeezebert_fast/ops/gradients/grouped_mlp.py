"""`grouped_mlp` on kernels that train. Kept for the backward: x and the weights, not the hidden tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.ops.gradients.routes import Differentiable, Gradients, needed, through_definition


def _fake(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_out.shape[0]))


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    needs: list[bool],
) -> list[Tensor]:
    shapes = weight_in.shape, weight_in.shape[:1], weight_out.shape, weight_out.shape[:1]
    return needed(needs, grad, [(x.shape, x.dtype), *((shape, torch.float32) for shape in shapes)])


def _save(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    *tensors, groups, activation = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = groups, activation


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor | None) -> Gradients:
    if grad is None:
        return (None,) * 5
    return kernel(grad, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[:5])


def _definition(ctx: Any, grad: Tensor | None) -> Gradients:
    if grad is None:
        return (None,) * 5

    def mlp(x: Tensor, *parameters: Tensor | None) -> Tensor:
        cast: list[Any] = [None if p is None else p.to(x.dtype) for p in parameters]
        return reference.grouped_mlp(x, *cast, *ctx.options)

    return through_definition(mlp, ctx.saved_tensors, ctx.needs_input_grad[:5], grad)


grouped_mlp = Differentiable(
    "grouped_mlp",
    forward=(
        "(Tensor x, Tensor weight_in, Tensor? bias_in, Tensor weight_out, Tensor? bias_out, int groups, "
        "str? activation) -> Tensor",
        _fake,
    ),
    backward=(
        "(Tensor grad, Tensor x, Tensor weight_in, Tensor? bias_in, Tensor weight_out, Tensor? bias_out, int groups, "
        "str? activation, bool[] needs) -> Tensor[]",
        _backward_fake,
    ),
    save=_save,
    gradients=_gradients,
    definition=_definition,
)
