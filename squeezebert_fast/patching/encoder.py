"""The encoder that `patch` puts in a model's place: a subclass of the model's own, with another forward.

Swapping the class of the one encoder object leaves parameters, buffers, submodules, names and identity alone,
and comes undone by swapping it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Request, context_obstacle, tensor_obstacle
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.attention import broadcasts, scores_may_go, without_scores
from squeezebert_fast.ops.grouped_pointwise_conv import ROUTES
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.library import Library, library_of

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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return super().forward(*args, **kwargs)
        settings: Settings = self.__dict__[SETTINGS]
        library = library_of(type(self))
        assert library is not None  # as is_encoder had it
        reason = lasting_obstacle(self, library)
        if reason is None:
            call = library.signature.bind(self, *args, **kwargs)
            call.apply_defaults()
            _, *given = call.arguments.items()
            arguments = dict(given)
            reason = self._call_obstacle(**arguments)
        if reason is not None:
            if settings.strict:
                raise UnsupportedError(f"encoder: {reason} (strict)")
            return super().forward(*args, **kwargs)
        x, hidden_states = self._run_layers(
            arguments["hidden_states"],
            arguments["attention_mask"],
            arguments["output_hidden_states"],
            settings,
            library,
        )
        if not arguments["return_dict"]:
            return (x,) if hidden_states is None else (x, hidden_states)
        return library.output(last_hidden_state=x, hidden_states=hidden_states)

    def _call_obstacle(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool,
        head_mask: Sequence[Tensor | None] | None = None,  # an argument of transformers 4
        **_: Any,
    ) -> str | None:
        """Why the original forward must run in this call, or None."""
        if output_attentions:
            return "output_attentions asks for the scores, which the accelerated layers don't keep"
        if getattr(self, "gradient_checkpointing", False) and self.training:
            return "gradient checkpointing recomputes whole layers through their own forward"
        if head_mask is not None and any(mask is not None for mask in head_mask):
            return "the accelerated layers take no head_mask"
        reason = context_obstacle() or tensor_obstacle(hidden_states, attention_mask)
        if reason is not None:
            return reason
        if hidden_states.dim() != 3:
            return f"hidden_states has shape {list(hidden_states.shape)}, not [batch, tokens, channels]"
        if attention_mask is None:
            return None
        batch, tokens = hidden_states.shape[:2]
        shape = tuple(attention_mask.shape)
        heads = shape[-3] if len(shape) > 2 else 1
        if not broadcasts(shape, (batch, heads, tokens, tokens)):
            return f"a mask of shape {list(shape)} would change the shape of the scores"
        if torch.promote_types(attention_mask.dtype, hidden_states.dtype) != hidden_states.dtype:
            return f"a {attention_mask.dtype} mask would change the dtype of the scores"
        return None

    def _run_layers(
        self, x: Tensor, mask: Tensor | None, keep_states: bool, settings: Settings, library: Library
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The last hidden state, and if asked for those before and after each layer."""
        # Nothing between here and the last layer changes what serves, so it is chosen once.
        request = Request("grouped_pointwise_conv", x.device, x.dtype)
        conv = ROUTES[backends.choose(request, settings.backend, settings.strict).backend]
        # a boolean 4-D mask is added as 0 and 1, as transformers does
        added = mask if mask is None or mask.dtype == x.dtype else mask.to(x.dtype)
        attention = without_scores if scores_may_go(x, added) else reference.attention
        routes = layers.Routes(conv, attention, reference.add_layer_norm)
        states = [x]
        for index, layer in enumerate(self.layers):
            reason = layers.obstacle(layer, library)
            if reason is None:
                x = layers.run(layer, x, added, routes, library)
            elif settings.strict:
                raise UnsupportedError(f"encoder.layers.{index}: {reason} (strict)")
            else:
                x = layers.run_original(layer, x, mask, library)
            if keep_states:
                states.append(x)
        return x, tuple(states) if keep_states else None

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so a copy or a pickle names the original class and makes it again.
        _, (cls, *_), *state = cast("tuple[Any, ...]", super().__reduce_ex__(max(int(protocol), 2)))
        return _rebuild, (original_class(cls),), *state


def lasting_obstacle(encoder: nn.Module, library: Library) -> str | None:
    """Why an encoder's own forward must run in every call as things are, or None."""
    original = original_class(type(encoder)) if isinstance(encoder, AcceleratedEncoder) else type(encoder)
    if original.forward is not library.encoder.forward:
        return f"{original.__name__} has a forward of its own"
    return library.replaced() or layers.hooks_on_every_module()


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
    """The encoder class that an accelerated one, or a class extending that, was made from."""
    mro = accelerated.__mro__
    return mro[mro.index(AcceleratedEncoder) + 1]


def is_encoder(module: nn.Module) -> bool:
    """Whether `module` is or extends a SqueezeBertEncoder, ours or transformers', patched or not."""
    return library_of(type(module)) is not None
