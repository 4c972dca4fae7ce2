"""The encoder that `patch` puts in a model's place: all layers by one engine, or layer by layer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends.request import (
    COMPILING,
    Request,
    autocast_dtype,
    context_obstacle,
    graph_obstacle,
    tensor_obstacle,
    tracing,
)
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.ops.attention import broadcasts
from squeezebert_fast.patching import engine
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.library import Library, library_of
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings, original_class

_snapshots: weakref.WeakKeyDictionary[nn.Module, engine.Snapshot] = weakref.WeakKeyDictionary()
"""What was made of each encoder: not in the encoder, so that copies and pickles don't carry it along."""


def snapshot_of(module: nn.Module) -> engine.Snapshot | None:
    """What was made of an encoder, if it is one and something was."""
    return _snapshots.get(module)


def forget_snapshot(encoder: nn.Module) -> None:
    """Free what was made of `encoder`'s layers."""
    _snapshots.pop(encoder, None)


class AcceleratedEncoder(Accelerated):
    """Mixed into a SqueezeBertEncoder's class; `forward` has that class's arguments and results."""

    layers: nn.ModuleList
    checkpointed: Callable[[Callable[..., Tensor], int], Callable[..., Tensor]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        settings: Settings = self.__dict__[SETTINGS]
        library = library_of(type(self))
        assert library is not None  # as is_encoder had it
        arguments = library.arguments(self, args, kwargs)
        traced = torch.compiler.is_compiling()
        reason = tracing_obstacle(self) if traced else tracing() or lasting_obstacle(self, library)
        reason = reason or self._call_obstacle(**arguments)
        if reason is not None:
            if settings.strict or not settings.keep_original:
                raise UnsupportedError(f"encoder: {reason} ({_why_no_fallback(settings)})")
            output = super().forward(*args, **kwargs)
            keep = _real_tokens(arguments["attention_mask"]) if settings.unpad and not tracing() else None
            return output if keep is None else _zero_padding(output, keep)
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
        if head_mask is not None and any(mask is not None for mask in head_mask):
            return "the accelerated layers take no head_mask"
        if not torch.compiler.is_compiling():
            reason = context_obstacle() or tensor_obstacle(hidden_states, attention_mask)
            if reason is not None:
                return reason
        if hidden_states.dim() != 3:
            return f"hidden_states has shape {list(hidden_states.shape)}, not [batch, tokens, channels]"
        if attention_mask is None:
            return None
        if attention_mask.device != hidden_states.device:
            return f"the mask is on {attention_mask.device}, the hidden states are on {hidden_states.device}"
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
        # a boolean 4-D mask is added as 0 and 1, as transformers does
        added = mask if mask is None or mask.dtype == x.dtype else mask.to(x.dtype)
        needs_grad = _needs_grad(self, x, added)
        traced = torch.compiler.is_compiling()
        snapshot = COMPILING if traced else self._snapshot(x, needs_grad, settings, library)
        if isinstance(snapshot, engine.Snapshot):
            y, outputs = snapshot.native.run(x, added, settings.unpad, keep_states)
            return y, (x, *outputs) if keep_states else None
        if not settings.keep_original or (
            settings.strict and (settings.precision != "float32" or settings.unpad)
        ):
            raise UnsupportedError(f"encoder: {snapshot} ({_why_no_fallback(settings)})")
        # transformers' encoder has no checkpointing
        checkpointed = self.checkpointed if needs_grad and not library.channels_first else _as_it_is
        # an equal mask for every query is read, and kept for the backward, once
        narrow = added if added is None or added.requires_grad or traced else engine.by_key(added)
        states = [x]
        for index, layer in enumerate(self.layers):
            reason = None if traced else layers.obstacle(layer, library)
            if reason is None:
                x = checkpointed(layers.run, index)(layer, x, narrow, settings, library)
            elif settings.strict:
                raise UnsupportedError(f"encoder.layers.{index}: {reason} (strict)")
            else:
                x = checkpointed(layers.run_original, index)(layer, x, mask, library)
            if keep_states:
                states.append(x)
        keep = _real_tokens(added) if settings.unpad and not traced else None
        if keep is not None:
            states = [states[0], *(torch.where(keep, state, 0.0) for state in states[1:])]
            x = torch.where(keep, x, 0.0)
        return x, tuple(states) if keep_states else None

    def _snapshot(
        self, x: Tensor, needs_grad: bool, settings: Settings, library: Library
    ) -> engine.Snapshot | str:
        """What runs all layers in one call of an engine, or why nothing does in this call."""
        autocast = autocast_dtype(x.device)
        request = Request("encoder", x.device, x.dtype, needs_grad=needs_grad, autocast=autocast)
        choice = backends.choose(request, settings.backend)
        if choice.backend not in engine.BACKENDS:
            return choice.reason
        if needs_grad:
            return "gradients are recorded, which the layers in one call don't do"
        snapshot = _snapshots.get(self)
        if (
            snapshot is None
            or not snapshot.is_for(choice.backend, settings.precision)
            or not snapshot.current(x.shape[0] * x.shape[1])
        ):
            if not settings.keep_original and snapshot is not None:
                return "something changed in the layers, whose original weights were given up"
            _snapshots.pop(self, None)  # before the next is packed, so that the two are never there at once
            if reason := engine.obstacle(self, library, choice.backend, settings.precision):
                return reason
            snapshot = engine.snapshot_of(self, library, choice.backend, settings.precision)
            if snapshot.lasting:
                _snapshots[self] = snapshot
        if not snapshot.dropout_is_off():
            return "dropout is on"
        return snapshot.misfit(x) or snapshot


def _as_it_is(run: Callable[..., Tensor], index: int) -> Callable[..., Tensor]:
    return run


def _needs_grad(encoder: nn.Module, x: Tensor, mask: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (
        x.requires_grad
        or (mask is not None and mask.requires_grad)
        or any(p.requires_grad for p in encoder.parameters())
    )


def _real_tokens(mask: Tensor | None) -> Tensor | None:
    """Which tokens a padding mask keeps, [batch, tokens, 1]; None for no mask or one of another kind."""
    if mask is None or not mask.dtype.is_floating_point or not engine.mask_is_padding(mask):
        return None
    return engine.by_key(mask)[:, 0, 0, :, None] == 0


def _zero_padding(output: Any, keep: Tensor) -> Any:
    """What the encoder's own forward returned, with zeros in its hidden states where there is no real token."""

    def zeroed(value: Any) -> Any:
        if isinstance(value, tuple):  # the first of the hidden states is the encoder's input
            return value[:1] + tuple(zeroed(state) for state in value[1:])
        return torch.where(keep, value, 0.0) if isinstance(value, Tensor) and value.dim() == 3 else value

    if isinstance(output, tuple):
        return tuple(part if _is_scores(part) else zeroed(part) for part in output)
    output.last_hidden_state = zeroed(output.last_hidden_state)
    if output.hidden_states is not None:
        output.hidden_states = zeroed(output.hidden_states)
    return output


def _is_scores(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) > 0 and part[0].dim() == 4


def _why_no_fallback(settings: Settings) -> str:
    return "strict" if settings.keep_original else "keep_original=False leaves nothing to fall back to"


def make_snapshot(encoder: nn.Module, settings: Settings) -> engine.PackedSnapshot:
    """Pack the layers now rather than in the first forward. Raises UnsupportedError where that can't be."""
    library = library_of(type(encoder))
    assert library is not None  # is_encoder
    weight = encoder.layers[0].post_attention.layernorm.weight if len(encoder.layers) else None  # type: ignore
    device = torch.device("cpu") if weight is None else weight.device
    choice = backends.choose(Request("encoder", device, torch.float32), settings.backend)
    if choice.backend == "cpu":
        reason = engine.obstacle(encoder, library, "cpu", settings.precision)
    elif choice.backend == "reference":
        reason = choice.reason
    else:
        reason = f"the {choice.backend} backend reads the original parameters, and packs nothing"
    if reason is not None:
        raise UnsupportedError(f"encoder: {reason} ({_why_no_fallback(settings)})")
    snapshot = engine.PackedSnapshot(encoder, library, settings.precision)
    _snapshots[encoder] = snapshot
    return snapshot


def lasting_obstacle(encoder: nn.Module, library: Library) -> str | None:
    """Why an encoder's own forward must run in every call as things are, or None."""
    original = original_class(type(encoder)) if isinstance(encoder, AcceleratedEncoder) else type(encoder)
    if original.forward is not library.encoder.forward:
        return f"{original.__name__} has a forward of its own"
    return library.replaced() or layers.hooks_on_every_module()


def tracing_obstacle(encoder: nn.Module) -> str | None:
    """Why the layers can't run operation by operation in a graph, or None."""
    library = library_of(type(encoder))
    assert library is not None  # is_encoder
    reason = graph_obstacle() or lasting_obstacle(encoder, library)
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        reason = reason or layers.obstacle(layer, library)
        if reason is not None:
            return f"layers.{index}: {reason}"
    return reason


# What torch.compiler.assume_constant_result does, without importing torch._dynamo, which takes a second.
tracing_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_encoder(module: nn.Module) -> bool:
    """Whether `module` is or extends a SqueezeBertEncoder, ours or transformers', patched or not."""
    return library_of(type(module)) is not None
