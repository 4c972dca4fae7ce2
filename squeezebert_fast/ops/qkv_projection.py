"""A layer's queries, keys and values: three grouped pointwise convolutions of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Gradients, autocast_to, request_for
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.differentiable import Differentiable, needed, through_reference
from squeezebert_fast.ops.grouped_pointwise_conv import check_arguments


def qkv_projection(
    x: Tensor,
    weight_q: Tensor,
    bias_q: Tensor | None,
    weight_k: Tensor,
    bias_k: Tensor | None,
    weight_v: Tensor,
    bias_v: Tensor | None,
    groups: int = 1,
    *,
    backend: str = "auto",
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`conv(x, weight_q, bias_q)`, the same for k and for v, all with the same groups.

    Kernels read x once for the three of them, and in the backward add its three gradients up as they go.

    Args:
        x: [..., in_channels].
        weight_q, weight_k, weight_v: [out_channels, in_channels / groups, 1], or without the last axis, of one
            shape.
        bias_q, bias_k, bias_v: [out_channels] or None.
        groups, backend, strict: as in `grouped_pointwise_conv`.

    Returns:
        q, k and v, [..., out_channels] each, in x's dtype, or autocast's.

    Raises:
        ArgumentError, UnsupportedError: as `grouped_pointwise_conv`.

    >>> x, weight = torch.randn(2, 7, 8), torch.randn(8, 4, 1)
    >>> q, k, v = qkv_projection(x, weight, None, weight, None, weight, None, groups=2)
    >>> q.shape
    torch.Size([2, 7, 8])

    Source: `SqueezeBertSelfAttention` in transformers' `modeling_squeezebert.py`.
    """
    parameters = weight_q, bias_q, weight_k, bias_k, weight_v, bias_v
    for name, weight, bias in zip("qkv", parameters[::2], parameters[1::2], strict=True):
        check_arguments(x, weight, bias, groups, None, ("x", f"weight_{name}", f"bias_{name}"))
        if weight.shape != weight_q.shape:
            raise ArgumentError(
                f"weight_{name} has shape {list(weight.shape)}, expected weight_q's, {list(weight_q.shape)}"
            )
    request = request_for("qkv_projection", x, *parameters)
    chosen = backends.choose(request, backend, strict).backend
    x = autocast_to(request.autocast, x)  # once for the three of them, and kept once
    if chosen != "reference":
        return on_kernels(chosen, x, *parameters, groups)
    return reference.qkv_projection(x, *parameters, groups)


def _fake(x: Tensor, weight_q: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.new_empty((*x.shape[:-1], weight_q.shape[0])) for _ in range(3))
    return q, k, v


def _backward_fake(*arguments: Any) -> list[Tensor]:
    *grads, x, weight_q, _, _, groups, needs = arguments
    grad = next(g for g in grads if g is not None)
    in_channels = 0 if x is None else x.shape[-1]
    in_channels = in_channels if weight_q is None else weight_q.shape[1] * groups
    out_channels = grad.shape[-1]
    of_x = (*grad.shape[:-1], in_channels), grad.dtype
    of_weight = (out_channels, in_channels // groups, 1), torch.float32
    return needed(needs, grad, [of_x, *[of_weight, ((out_channels,), torch.float32)] * 3])


def _kept(
    inputs: tuple[Any, ...], results: tuple[Tensor, ...], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """x and the weights, in the places of the arguments; no bias, and nothing that only a frozen one would need."""
    x, weight_q, _, weight_k, _, weight_v, _, _ = inputs
    weights = (weight_q, None, weight_k, None, weight_v, None) if needs[0] else (None,) * 6
    return x if any(needs[1:7:2]) else None, *weights


def _wanted(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[bool, ...]:
    """Those of the gradients that are needed and not zero."""
    for_x, *for_parameters = ctx.needs_input_grad[:7]
    given = [grad is not None for grad in grads for _ in ("weight", "bias")]
    return for_x, *(need and there for need, there in zip(for_parameters, given, strict=True))


def _gradients(ctx: Any, kernel: Callable[..., Gradients], *grads: Tensor | None) -> Gradients:
    needs = _wanted(ctx, grads)
    x, *parameters = ctx.saved_tensors
    return kernel(*grads, x, *parameters[::2], *ctx.options, needs) if any(needs) else ()


def _definition(ctx: Any, *grads: Tensor | None) -> Gradients:
    needs = _wanted(ctx, grads)
    return through_reference(ctx, reference.qkv_projection, needs, *grads) if any(needs) else ()


on_kernels = Differentiable(
    "qkv_projection",
    fake=_fake,
    backward_fake=_backward_fake,
    kept=_kept,
    gradients=_gradients,
    definition=_definition,
)
