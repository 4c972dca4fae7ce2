"""`add_layer_norm` on kernels that train. Kept for the backward: the sum before the norm, and its rows' statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.ops.gradients.routes import Differentiable, Gradients, needed, through_definition


def _fake(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, residual.dtype)
    y, total = (x.new_empty(x.shape, dtype=dtype) for _ in range(2))
    mean, reciprocal = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    return y, total, mean, reciprocal


def _backward_fake(
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    reciprocal: Tensor,
    weight: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    x_dtype: torch.dtype,
    needs: list[bool],
) -> list[Tensor]:
    parameter = weight.shape, torch.float32
    return needed(needs, grad, [(grad.shape, x_dtype), (grad.shape, total.dtype), parameter, parameter])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, weight, _, eps, dropout_p, seed = inputs
    # The sum is a result with a gradient of its own, so that a second derivative finds its way through it.
    _, total, mean, reciprocal = output
    ctx.save_for_backward(total, mean, reciprocal, weight, seed)
    ctx.mark_non_differentiable(mean, reciprocal)
    ctx.options = eps, dropout_p, x.dtype


def _gradients(
    ctx: Any, kernel: Callable[..., Gradients], grad: Tensor | None, of_total: Tensor | None, *_: Any
) -> Gradients:
    if grad is None or of_total is not None:
        return _definition(ctx, grad, of_total)
    total, mean, reciprocal, weight, seed = ctx.saved_tensors
    _, dropout_p, x_dtype = ctx.options
    needs = tuple(ctx.needs_input_grad[:4])
    return kernel(grad, total, mean, reciprocal, weight, dropout_p, seed, x_dtype, needs)


def _definition(ctx: Any, grad: Tensor | None, of_total: Tensor | None, *_: Any) -> Gradients:
    total, _, _, weight, seed = ctx.saved_tensors
    eps, dropout_p, _ = ctx.options
    needs = ctx.needs_input_grad[:4]
    of_sum = of_weight = of_bias = None
    if grad is not None:
        bias = weight.new_zeros(weight.shape)

        def norm(total: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.layer_norm(total, weight.shape, weight, bias, eps)

        of_sum, of_weight, of_bias = through_definition(
            norm, (total, weight, bias), (needs[0] or needs[1], *needs[2:]), grad
        )
    if of_total is not None:
        of_sum = of_total if of_sum is None else of_sum + of_total
    of_x = of_sum
    if dropout_p > 0.0 and of_sum is not None:
        # what the kernel multiplies by: the sum of ones, dropped, and zeros
        ones, affine = torch.ones_like(total, dtype=torch.float32), weight.detach()
        _, kept, _, _ = add_layer_norm.op(ones, torch.zeros_like(ones), affine, affine, eps, dropout_p, seed)
        of_x = of_sum * kept
    return of_x if needs[0] else None, of_sum if needs[1] else None, of_weight, of_bias


add_layer_norm = Differentiable(
    "add_layer_norm",
    forward=(
        "(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps, float dropout_p, Tensor? seed) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
        _fake,
    ),
    backward=(
        "(Tensor grad, Tensor total, Tensor mean, Tensor reciprocal, Tensor weight, float dropout_p, Tensor? seed, "
        "ScalarType x_dtype, bool[] needs) -> Tensor[]",
        _backward_fake,
    ),
    save=_save,
    gradients=_gradients,
    definition=_definition,
)
