"""`dropout` on kernels that train. Kept for the backward: the seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.ops.gradients.routes import Differentiable, Gradients, needed


def _fake(x: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(grad: Tensor, dropout_p: float, seed: Tensor | None, needs: list[bool]) -> list[Tensor]:
    return needed(needs, grad, [(grad.shape, grad.dtype)])


def _save(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    _, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(seed)


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor | None) -> Gradients:
    if grad is None:
        return (None,)
    (seed,) = ctx.saved_tensors
    return kernel(grad, ctx.dropout_p, seed, ctx.needs_input_grad[:1])


def _definition(ctx: Any, grad: Tensor | None) -> Gradients:
    if grad is None:
        return (None,)
    (seed,) = ctx.saved_tensors
    kept = dropout.op(torch.ones(grad.shape, device=grad.device), ctx.dropout_p, seed)
    return (grad * kept.to(grad.dtype),)


dropout = Differentiable(
    "dropout",
    forward=("(Tensor x, float dropout_p, Tensor? seed) -> Tensor", _fake),
    backward=("(Tensor grad, float dropout_p, Tensor? seed, bool[] needs) -> Tensor[]", _backward_fake),
    save=_save,
    gradients=_gradients,
    definition=_definition,
)
