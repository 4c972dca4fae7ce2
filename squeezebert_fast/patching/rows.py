"""What stands between the dense layers of poolers and heads, activations and LayerNorm, on the encoder's kernels.

What it takes is little. But so a model's answers have the same bits wherever this package's kernels compute them, in
PyTorch or without (csrc/runtime/).
"""

from __future__ import annotations

import math  # noqa: F401 (see `_scripted_as`)
from collections.abc import Callable
from typing import Any

import torch  # noqa: F401 (see `_scripted_as`)
import torch.nn.functional as F  # noqa: F401 (see `_scripted_as`)
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu, cpu_rows
from squeezebert_fast.backends.request import Request, autocast_dtype, tracing
from squeezebert_fast.patching.families.family import is_whole
from squeezebert_fast.patching.layers import fused_name
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings, original_class


def accelerated_as(module: nn.Module) -> type[Accelerated] | None:
    """What to swap a module of a pooler or head for, or None."""
    cls = original_class(type(module)) if isinstance(module, Accelerated) else type(module)
    if not is_whole(cls):
        return None
    if cls is nn.LayerNorm:
        return AcceleratedLayerNorm
    name = fused_name(module)
    return AcceleratedActivation if name is not None and name in cpu.FUSED_ACTIVATIONS else None


class AcceleratedLayerNorm(Accelerated):
    """Mixed into nn.LayerNorm; `forward` has its arguments and results."""

    @classmethod
    def members(cls, original: type[nn.Module]) -> dict[str, Any]:
        def forward(self: Any, input: Tensor) -> Tensor:  # nn.LayerNorm's name
            weight, bias = self.weight, self.bias
            if (
                tracing() is None
                and weight is not None
                and bias is not None
                and weight.dim() == 1
                and input.dim() > 0
                and 0 < input.shape[-1] == weight.shape[0] == bias.shape[0]
                and _is_served("add_layer_norm", self, input, weight, bias)
            ):
                return cpu_rows.layer_norm(input, weight, bias, self.eps)
            return original.forward(self, input)

        return {"forward": _scripted_as(original, forward)}


class AcceleratedActivation(Accelerated):
    """Mixed into the class of an activation without parameters; `forward` has its arguments and results."""

    @classmethod
    def members(cls, original: type[nn.Module]) -> dict[str, Any]:
        def forward(self: Any, input: Tensor) -> Tensor:
            in_place = getattr(self, "inplace", False)  # as nn.ReLU's: its caller may read the input again
            if tracing() is None and not in_place and _is_served("grouped_pointwise_conv", self, input):
                name = fused_name(self)
                assert name is not None  # as patch had it
                return cpu_rows.activate(input, name)
            return original.forward(self, input)

        return {"forward": _scripted_as(original, forward)}


def _is_served(operation: str, module: nn.Module, x: Tensor, *parameters: Tensor) -> bool:
    """Whether the kernels take this call; without, it is PyTorch's."""
    settings: Settings = module.__dict__[SETTINGS]
    if not cpu_rows.takes(x, *parameters) or autocast_dtype(x.device) is not None:
        return False
    return backends.choose(Request(operation, x.device, x.dtype), settings.backend).backend == "cpu"


def _scripted_as(original: type[nn.Module], forward: Callable[..., Any]) -> Callable[..., Any]:
    """torch.jit.script compiles the text of what a forward says it wraps, with the names of this file."""
    forward.__wrapped__ = original.forward  # type: ignore[attr-defined]
    return forward
