"""A layer's queries, keys and values: three grouped pointwise convolutions of one input."""

from __future__ import annotations

from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import autocast_to, request_for
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.gradients.qkv_projection import qkv_projection as on_kernels
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
            shape; biases: [out_channels] or None.
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
