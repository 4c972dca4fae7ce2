"""The encoder that `patch` puts in a model's place: a subclass of the model's own, with another forward.

Swapping the class of the one encoder object leaves parameters, buffers, submodules, names and identity alone, and comes
undone by swapping it back.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.backends.request import obstacle as call_obstacle
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.patching import layer as layers

SETTINGS = "_squeezebert_fast_settings"
"""Name of the attribute that holds a patched encoder's Settings, in its __dict__."""


@dataclass(frozen=True)
class Settings:
    """What `patch` was asked for."""

    backend: str
    strict: bool


class AcceleratedEncoder(nn.Module):
    """Mixed into a SqueezeBertEncoder's class; `forward` has that class's arguments and results."""

    layers: nn.ModuleList

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> Any:
        settings: Settings = self.__dict__[SETTINGS]
        reason = self._whole_encoder_obstacle(hidden_states, output_attentions)
        if reason is not None:
            if settings.strict and not torch.compiler.is_compiling():
                raise UnsupportedError(f"encoder: {reason} (strict)")
            return super().forward(
                hidden_states, attention_mask, output_attentions, output_hidden_states, return_dict
            )
        mask = attention_mask
        if mask is not None and mask.dtype != hidden_states.dtype:
            mask = mask.to(
                hidden_states.dtype
            )  # a boolean 4-D mask is added as 0 and 1, as transformers does
        x = hidden_states
        states = [x]
        for index, layer in enumerate(self.layers):
            reason = layers.obstacle(layer)
            if reason is None:
                x = layers.run_layer(layer, x, mask, settings.backend, settings.strict)
            elif settings.strict:
                raise UnsupportedError(f"encoder.layers.{index}: {reason} (strict)")
            else:
                x = layers.run_original_layer(layer, x, attention_mask)
            states.append(x)
        hidden = tuple(states) if output_hidden_states else None
        if not return_dict:
            return tuple(v for v in (x, hidden) if v is not None)
        return self._output_class()(last_hidden_state=x, hidden_states=hidden)

    def _whole_encoder_obstacle(self, hidden_states: Tensor, output_attentions: bool) -> str | None:
        """Why the original forward must run, or None."""
        if torch.compiler.is_compiling():
            return "torch.compile or torch.export is tracing"
        if output_attentions:
            return "output_attentions asks for the scores, which the accelerated layers don't keep"
        if getattr(self, "gradient_checkpointing", False) and self.training:
            return "gradient checkpointing recomputes whole layers through their own forward"
        return layers.hooks_on_every_module() or call_obstacle(hidden_states)

    def _output_class(self) -> Any:
        """BaseModelOutput of the library that the encoder comes from."""
        original = original_class(type(self))
        return sys.modules[original.__module__].BaseModelOutput

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so a copy or a pickle names the original class and makes it again.
        return _rebuild, (original_class(type(self)),), self.__dict__


def _rebuild(original: type[nn.Module]) -> nn.Module:
    accelerated = accelerated_class(original)
    return accelerated.__new__(accelerated)


_accelerated: dict[type[nn.Module], type[AcceleratedEncoder]] = {}


def accelerated_class(original: type[nn.Module]) -> type[AcceleratedEncoder]:
    """The accelerated subclass of an encoder class."""
    if original not in _accelerated:
        name = "Accelerated" + original.__name__
        _accelerated[original] = type(name, (AcceleratedEncoder, original), {"__module__": __name__})
    return _accelerated[original]


def original_class(accelerated: type[nn.Module]) -> type[nn.Module]:
    """The encoder class that `accelerated` was made from."""
    return accelerated.__bases__[1]


def is_encoder(module: nn.Module) -> bool:
    """Whether `module` is a SqueezeBertEncoder, ours or transformers', patched or not."""
    from squeezebert_fast.modeling.encoder import SqueezeBertEncoder

    named = any(c.__name__ == "SqueezeBertEncoder" for c in type(module).__mro__)
    return isinstance(module, SqueezeBertEncoder) or (named and layers.is_from_transformers(module))
