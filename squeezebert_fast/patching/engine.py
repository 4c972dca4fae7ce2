"""The encoder's layers as one native call: what was packed from a module tree, and whether it still stands for it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from squeezebert_fast.backends import cpu, quantized
from squeezebert_fast.backends.cpu_encoder import (
    Conv,
    CpuEncoder,
    Layer,
    Norm,
    by_key,
    refusal,
    with_blocks,
)
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.library import Library

CONVS = (
    ("attention", "query"),
    ("attention", "key"),
    ("attention", "value"),
    ("post_attention", "conv1d"),
    ("intermediate", "conv1d"),
    ("output", "conv1d"),
)

SAMPLES = 16
"""Elements of each parameter that a snapshot compares: two hundred parameters' are a few tens of microseconds."""


class Snapshot:
    """A native encoder, and all that must be as it was for the native encoder to be the module's forward.

    Walking the modules as `layers.obstacle` does would take longer than a short forward, so the walk is done
    once, and its findings are kept as flat lists that take microseconds to go through.
    """

    def __init__(self, encoder: nn.Module, library: Library, precision: str) -> None:
        """For an encoder without `obstacle`."""
        modules = list(encoder.layers.modules())  # type: ignore[union-attr]
        self._modules, self._classes = modules, [type(module) for module in modules]
        self._own = [module.__dict__ for module in modules]
        # what is empty now may fill up without a say in the forward, unless a class or a forward changes too
        self._held = [encoder._modules]
        self._held += [held for m in modules for held in (m._modules, m._parameters) if held]
        self._values = _values(self._held)
        self._attributes = [
            (module.__dict__, name, module.__dict__[name])
            for module in modules
            for name in ("groups", "eps", "num_attention_heads")
            if name in module.__dict__
        ]
        firing = [m for m in modules if not (library.channels_first and type(m) is library.layer)]
        self._hooks = [
            module.__dict__[kind]
            for module in firing
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ]
        self._next_hook = RemovableHandle.next_id
        self._dropouts = [m.__dict__ for m in modules if isinstance(m, nn.Dropout)]
        parameters = [p for m in modules for p in m._parameters.values() if p is not None]
        self._parameters = parameters
        # a tensor of inference mode has no version
        self._state: list[int] | None = (
            None if any(p.is_inference() for p in parameters) else _state(parameters)
        )
        contiguous = [p for p in parameters if p.is_contiguous() and not p.is_meta]
        self._samples = cpu.samples(contiguous, SAMPLES)
        self.lasting = self._state is not None and len(contiguous) == len(parameters)
        """Whether `current` would notice a change; if not, the snapshot serves one call."""
        self.native = CpuEncoder([layer_of(layer) for layer in encoder.layers], precision)  # type: ignore[union-attr]

    def current(self) -> bool:
        """Whether nothing has changed since: modules, parameters, their values, hooks.

        Of values, writes through `.data` or another tensor's view that miss all sampled elements go unseen.
        """
        return (
            self.native.instruction_set == cpu.instruction_set()
            and list(map(type, self._modules)) == self._classes
            and _same(_values(self._held), self._values)
            and all(own.get(name) == value for own, name, value in self._attributes)
            and self._no_hooks()
            and not any(map(dict.__contains__, self._own, repeat("forward")))
            and _state(self._parameters) == self._state
            and self._samples.match()
        )

    def parameters(self) -> list[nn.Parameter]:
        """All of the layers."""
        return list(self._parameters)

    def stand_alone(self) -> None:
        """Take the parameters that are in the modules now, which have no values, for those that were packed."""
        self._values = _values(self._held)
        self._parameters = [p for m in self._modules for p in m._parameters.values() if p is not None]
        self._state = _state(self._parameters)
        self._samples = cpu.samples([], 0)
        self.lasting = True

    def _no_hooks(self) -> bool:
        if self._next_hook != RemovableHandle.next_id:  # a hook was registered, somewhere in this process
            if any(self._hooks):
                return False
            self._next_hook = RemovableHandle.next_id
        return True

    def dropout_is_off(self) -> bool:
        """Whether no dropout in the layers would drop anything."""
        return not any(own["training"] and own["p"] > 0.0 for own in self._dropouts)


def _state(parameters: list[Tensor]) -> list[int]:
    """Where the values are, and how often they were written to. A tensor of inference mode doesn't count that."""
    return [number for p in parameters for number in (p.data_ptr(), p._version)]


def _values(held: list[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, held)))


def _same(values: list[Any], others: list[Any]) -> bool:
    """Whether they are the same objects: never by ==, which tensors answer element by element."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


def layer_of(layer: Any) -> Layer:
    """The parameters of a layer without `layers.obstacle`. `activation` is "" for one that is a module to call."""
    blocks = {name: layer.__dict__["_modules"][name] for name, _ in CONVS}
    convs = [blocks[block].__dict__["_modules"][name] for block, name in CONVS]
    norms = [blocks[block].__dict__["_modules"]["layernorm"] for block in ("post_attention", "output")]
    return Layer(
        heads=blocks["attention"].num_attention_heads,
        activation=layers.fused_name(blocks["intermediate"].act) or "",
        convs=with_blocks([_conv(c) for c in convs]),  # type: ignore[arg-type]
        norms=(
            Norm(norms[0].weight, norms[0].bias, norms[0].eps),
            Norm(norms[1].weight, norms[1].bias, norms[1].eps),
        ),
    )


def _conv(module: nn.Conv1d) -> Conv:
    weight, scale = quantized.form_of(module.weight) or (module.weight, None)
    return Conv(weight, scale, module.bias, module.groups)


def obstacle(encoder: nn.Module, library: Library) -> str | None:
    """Why no native encoder can be made of these layers as they are, or None."""
    if cpu.native_module_missing():
        return cpu.native_module_missing()
    if len(encoder.layers) == 0:  # type: ignore[arg-type]
        return "there are no layers"
    channels = set()
    for index, layer in enumerate(_layers(encoder)):
        reason = layers.obstacle(layer, library) or refusal(layer_of(layer))
        if reason is not None:
            return f"layers.{index}: {reason}"
        channels.add(layer.post_attention.layernorm.weight.shape[0])
    if len(channels) > 1:
        return "layers have different numbers of channels"
    return None


def _layers(encoder: nn.Module) -> Iterator[Any]:
    yield from encoder.layers  # type: ignore[misc]


def mask_is_padding(mask: Tensor) -> bool:
    """Whether a mask added to scores says for every key alike, in all heads and rows, yes (0) or no (the lowest)."""
    mask = by_key(mask)
    if mask.shape[1:3] != (1, 1):
        return False
    return bool(((mask == 0) | (mask == torch.finfo(mask.dtype).min) | (mask == -torch.inf)).all())
