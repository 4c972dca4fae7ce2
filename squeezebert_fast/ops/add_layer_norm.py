"""Dropout, residual addition and LayerNorm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Gradients, autocast_dtype, request_for
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.differentiable import Differentiable, needed, through_definition
from squeezebert_fast.ops.dropout import draw_seed


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-12,
    dropout_p: float = 0.0,
    *,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`layer_norm(dropout(x) + residual)` over the last axis.

    Args:
        x, residual: [..., channels].
        weight, bias: [channels].
        eps: added to the variance. SqueezeBERT's layers use 1e-12 whatever their configuration says.
        dropout_p: probability in [0, 1] of dropping an element of x. The others grow by 1 / (1 - dropout_p).
            Seeded by PyTorch's default generator of the device.
        backend, strict: as in `grouped_pointwise_conv`.

    Returns:
        [..., channels] in x's dtype; under autocast in the wider one of x's and residual's.

    Raises:
        ArgumentError: shapes, dtypes or devices don't fit, eps is negative, or dropout_p is no probability.

    >>> x = torch.randn(2, 5, 8)
    >>> add_layer_norm(x, x, torch.ones(8), torch.zeros(8)).shape
    torch.Size([2, 5, 8])

    Source: `ConvDropoutLayerNorm` in transformers' `modeling_squeezebert.py`.
    """
    for name, tensor in (("x", x), ("residual", residual), ("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"{name} is a {type(tensor).__name__}, expected a tensor")
        if tensor.device != x.device:
            raise ArgumentError(f"{name} is on {tensor.device}, but x is on {x.device}")
    if x.dim() < 1 or x.shape[-1] == 0:
        raise ArgumentError(f"x has shape {list(x.shape)}, expected [..., channels]")
    if residual.shape != x.shape:
        raise ArgumentError(f"residual has shape {list(residual.shape)}, expected x's, {list(x.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.shape != x.shape[-1:]:
            raise ArgumentError(f"{name} has shape {list(tensor.shape)}, expected [{x.shape[-1]}]")
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"x is {x.dtype}, expected a floating dtype")
    for name, tensor in (("residual", residual), ("weight", weight), ("bias", bias)):
        # PyTorch normalises half-precision rows with float32 parameters too
        mixed = tensor.dtype is torch.float32 and x.dtype in (torch.bfloat16, torch.float16)
        allowed = tensor.dtype is x.dtype or (mixed and name != "residual")
        if not allowed and autocast_dtype(x.device) is None:
            raise ArgumentError(f"{name} is {tensor.dtype}, but x is {x.dtype}")
    if not eps >= 0.0:
        raise ArgumentError(f"eps is {eps}, expected eps >= 0")
    if not 0.0 <= dropout_p <= 1.0:
        raise ArgumentError(f"dropout_p is {dropout_p}, expected 0 <= dropout_p <= 1")
    request = request_for(
        "add_layer_norm",
        x,
        residual,
        weight,
        bias,
        sizes={"channels": x.shape[-1]},
    )
    chosen = backends.choose(request, backend, strict).backend
    if chosen != "reference":
        y, *_ = on_kernels(chosen, x, residual, weight, bias, eps, dropout_p, draw_seed(dropout_p, x.device))
        return y
    return reference.add_layer_norm(x, residual, weight, bias, eps, dropout_p)


def _fake(x: Tensor, residual: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, residual.dtype)
    y, total = (x.new_empty(x.shape, dtype=dtype) for _ in range(2))
    mean, reciprocal = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    return y, total, mean, reciprocal


def _backward_fake(*arguments: Any) -> list[Tensor]:
    grad, total, _, _, weight, _, _, x_dtype, needs = arguments
    parameter = weight.shape, torch.float32
    return needed(needs, grad, [(grad.shape, x_dtype), (grad.shape, total.dtype), parameter, parameter])


def _kept(
    inputs: tuple[Any, ...], results: tuple[Tensor, ...], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The sum before the norm, its rows' statistics, the weight and the seed.

    The sum is a result with a gradient of its own, so that a second derivative finds its way through it.
    """
    _, _, weight, _, _, _, seed = inputs
    _, total, mean, reciprocal = results
    return total, mean, reciprocal, weight, seed


def _gradients(
    ctx: Any, kernel: Callable[..., Gradients], grad: Tensor | None, of_total: Tensor | None, *_: Any
) -> Gradients:
    if grad is None or of_total is not None:
        return _definition(ctx, grad, of_total)
    *tensors, seed = ctx.saved_tensors
    (_, dropout_p), (x_dtype, _) = ctx.options, ctx.likes[0]
    return kernel(grad, *tensors, dropout_p, seed, x_dtype, ctx.needs_input_grad[:4])


def _definition(ctx: Any, grad: Tensor | None, of_total: Tensor | None, *_: Any) -> Gradients:
    total, _, _, weight, seed = ctx.saved_tensors
    eps, dropout_p = ctx.options
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
        _, kept, _, _ = on_kernels.op(ones, torch.zeros_like(ones), affine, affine, eps, dropout_p, seed)
        of_x = of_sum * kept
    return of_x if needs[0] else None, of_sum if needs[1] else None, of_weight, of_bias


on_kernels = Differentiable(
    "add_layer_norm",
    fake=_fake,
    backward_fake=_backward_fake,
    kept=_kept,
    gradients=_gradients,
    definition=_definition,
    statistics=2,
)
