"""A layer's feed-forward block: two grouped pointwise convolutions with an activation between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Gradients, autocast_to, request_for
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.differentiable import Differentiable, needed, through_reference
from squeezebert_fast.ops.grouped_pointwise_conv import check_arguments, grouped_pointwise_conv

HIDDEN_NAMES = ("the hidden tensor", "weight_out", "bias_out")


def grouped_mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int = 1,
    activation: str | None = "gelu",
    *,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`conv(activation(conv(x, weight_in, bias_in)), weight_out, bias_out)`, both with the same groups.

    Args:
        x: [..., channels].
        weight_in: [hidden, channels / groups, 1]; bias_in: [hidden] or None.
        weight_out: [out_channels, hidden / groups, 1]; bias_out: [out_channels] or None. Both weights may lack
            the last axis.
        groups, activation, backend, strict: as in `grouped_pointwise_conv`, which serves both products where
            there is no kernel for the whole, as with an activation that isn't fused. Kernels keep x and the
            weights for the backward, which computes the hidden tensor again.

    Returns:
        [..., out_channels] in x's dtype, or autocast's.

    Raises:
        ArgumentError, UnsupportedError: as `grouped_pointwise_conv`.

    >>> x, w1, w2 = torch.randn(3, 8), torch.randn(32, 4, 1), torch.randn(8, 16, 1)
    >>> grouped_mlp(x, w1, None, w2, None, groups=2).shape
    torch.Size([3, 8])

    Source: `SqueezeBertModule.intermediate` and `.output` in transformers' `modeling_squeezebert.py`.
    """
    check_arguments(x, weight_in, bias_in, groups, activation, ("x", "weight_in", "bias_in"))
    # stands for the hidden tensor, which may never be made
    hidden = x.detach()[..., :1].expand(*x.shape[:-1], weight_in.shape[0])
    check_arguments(hidden, weight_out, bias_out, groups, None, HIDDEN_NAMES)
    request = request_for("grouped_mlp", x, weight_in, bias_in, weight_out, bias_out)
    chosen = backends.choose(request, backend, strict).backend
    if activation in backends.BACKENDS[chosen].fused_activations:
        x = autocast_to(request.autocast, x)
        return on_kernels(chosen, x, weight_in, bias_in, weight_out, bias_out, groups, activation)
    hidden = grouped_pointwise_conv(x, weight_in, bias_in, groups, activation, backend=backend, strict=strict)
    return grouped_pointwise_conv(hidden, weight_out, bias_out, groups, backend=backend, strict=strict)


def _fake(x: Tensor, weight_in: Tensor, bias_in: Tensor | None, weight_out: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_out.shape[0]))


def _backward_fake(
    grad: Tensor, x: Tensor, weight_in: Tensor, bias_in: Tensor | None, weight_out: Tensor, *rest: Any
) -> list[Tensor]:
    shapes = weight_in.shape, weight_in.shape[:1], weight_out.shape, weight_out.shape[:1]
    return needed(rest[-1], grad, [(x.shape, x.dtype), *((shape, torch.float32) for shape in shapes)])


def _kept(inputs: tuple[Any, ...], y: Tensor, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    return inputs[:5]  # not the hidden tensor


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor) -> Gradients:
    return kernel(grad, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[:5])


def _definition(ctx: Any, grad: Tensor) -> Gradients:
    return through_reference(ctx, reference.grouped_mlp, ctx.needs_input_grad[:5], grad)


on_kernels = Differentiable(
    "grouped_mlp",
    fake=_fake,
    backward_fake=_backward_fake,
    kept=_kept,
    gradients=_gradients,
    definition=_definition,
)
