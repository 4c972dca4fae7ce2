"""Dropout, residual addition and LayerNorm."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import autocast_dtype, request_for
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.dropout import draw_seed
from squeezebert_fast.ops.gradients.add_layer_norm import add_layer_norm as on_kernels


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
