"""A layer's feed-forward block: two grouped pointwise convolutions with an activation between."""

from __future__ import annotations

from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends import triton
from squeezebert_fast.backends.request import Request, gradients_are_recorded, obstacle
from squeezebert_fast.ops.grouped_pointwise_conv import check_arguments, grouped_pointwise_conv
from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS

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
        weight_out: [out_channels, hidden / groups, 1]; bias_out: [out_channels] or None.
        groups, activation, backend, strict: as in `grouped_pointwise_conv`, which serves both products where
            there is no kernel for the whole. That is Triton's, without gradients: the hidden tensor is never in
            memory.

    Returns:
        [..., out_channels].

    Raises:
        ArgumentError, UnsupportedError: as `grouped_pointwise_conv`.

    >>> x, w1, w2 = torch.randn(3, 8), torch.randn(32, 4, 1), torch.randn(8, 16, 1)
    >>> grouped_mlp(x, w1, None, w2, None, groups=2).shape
    torch.Size([3, 8])

    Source: `SqueezeBertModule.intermediate` and `.output` in transformers' `modeling_squeezebert.py`.
    """
    check_arguments(x, weight_in, bias_in, groups, activation, ("x", "weight_in", "bias_in"))
    if _has_kernel(x, weight_in, bias_in, weight_out, bias_out, groups, activation, backend, strict):
        # stands for the hidden tensor, which is never made
        hidden = x.new_empty(()).expand(*x.shape[:-1], weight_in.shape[0])
        check_arguments(hidden, weight_out, bias_out, groups, None, HIDDEN_NAMES)
        return triton.grouped_mlp(x, weight_in, bias_in, weight_out, bias_out, groups, activation)
    hidden = grouped_pointwise_conv(x, weight_in, bias_in, groups, activation, backend=backend, strict=strict)
    check_arguments(hidden, weight_out, bias_out, groups, None, HIDDEN_NAMES)
    return grouped_pointwise_conv(hidden, weight_out, bias_out, groups, backend=backend, strict=strict)


def _has_kernel(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    backend: str,
    strict: bool,
) -> bool:
    """Whether one kernel serves the whole block."""
    tensors = (x, weight_in, bias_in, weight_out, bias_out)
    if activation not in FUSED_ACTIVATIONS or not isinstance(weight_out, Tensor):
        return False
    request = Request("grouped_mlp", x.device, x.dtype, obstacle(*tensors), gradients_are_recorded(*tensors))
    return backends.choose(request, backend, strict).backend == "triton"
