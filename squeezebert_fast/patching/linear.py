"""The dense layers around the encoder (pooler, masked-language-model head, classifiers) on the encoder's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import (
    Request,
    autocast_dtype,
    gradients_are_recorded,
    obstacle,
    tracing,
)
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.ops.grouped_pointwise_conv import on_kernels
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings

FEW_CHANNELS = 64
"""A layer with fewer outputs stays float32: it is a classifier, whose cost is nothing and whose rounding is seen."""

MANY_ROWS = 128
"""A product of fewer rows is PyTorch's while gradients are recorded. Its weight changes in each step, so it would be
packed for it alone, once for the forward and once for the backward; from here on that pays, whatever its shape."""


class AcceleratedLinear(Accelerated):
    """Mixed into nn.Linear; `forward` has its arguments and results."""

    if TYPE_CHECKING:  # torch.jit.script doesn't understand them
        weight: nn.Parameter
        bias: nn.Parameter | None

    def forward(self, input: Tensor) -> Tensor:  # nn.Linear's name
        settings: Settings = self.__dict__[SETTINGS]
        weight, bias = self.weight, self.bias  # once: nn.Module looks them up by hand
        reason = tracing()
        recorded = reason is None and gradients_are_recorded(input, weight, bias)
        reason = reason or _obstacle(input, weight, bias, settings, recorded)
        if reason is None:
            if recorded:
                return on_kernels("cpu", input, weight, bias, 1, None)
            precision = product_precision(weight, settings)
            return cpu.grouped_pointwise_conv(input, weight, bias, 1, None, precision)
        if not settings.keep_original:
            raise UnsupportedError(
                f"a linear layer: {reason} (keep_original=False leaves nothing to fall back to)"
            )
        return F.linear(input, weight, bias)

    # torch.jit.script compiles the text of what a forward says it wraps, with the F of this module
    forward.__wrapped__ = nn.Linear.forward  # type: ignore[attr-defined]


def _obstacle(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings, recorded: bool
) -> str | None:
    """Why F.linear must run, or None. recorded: whether gradients are."""
    if recorded and not settings.keep_original:
        return "gradients are recorded"
    if autocast_dtype(x.device) is not None:
        return "autocast is active"
    if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        return f"the input has shape {list(x.shape)}"
    if recorded and (x.numel() < MANY_ROWS * max(x.shape[-1], 1) or weight.shape[0] < FEW_CHANNELS):
        return "gradients are recorded, of a product too small to be worth packing its weight anew"
    reason = obstacle(x, weight if settings.keep_original else None, bias)
    request = Request("grouped_pointwise_conv", x.device, x.dtype, reason)
    choice = backends.choose(request, settings.backend)
    if choice.backend != "cpu":
        return choice.reason
    if weight.dtype is not torch.float32 or (bias is not None and bias.dtype is not torch.float32):
        return f"the weight is {weight.dtype}"
    return None


def product_precision(weight: Tensor, settings: Settings) -> str:
    """What the product of a layer with this weight runs in."""
    return "float32" if weight.shape[0] < FEW_CHANNELS else settings.precision
