"""The encoder's layers as one call of an engine: what was read off the modules, and whether it still holds."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from squeezebert_fast.backends import cpu, cpu_encoder, quantized, triton_encoder
from squeezebert_fast.backends.cpu_encoder import CpuEncoder, by_key, with_blocks
from squeezebert_fast.backends.encoder_layer import Conv, Layer, Norm
from squeezebert_fast.backends.triton_encoder import TritonEncoder
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.library import Library
from squeezebert_fast.patching.swapping import SETTINGS

CONVS = (
    ("attention", "query"),
    ("attention", "key"),
    ("attention", "value"),
    ("post_attention", "conv1d"),
    ("intermediate", "conv1d"),
    ("output", "conv1d"),
)

SAMPLES = 8
"""Elements of each parameter that every call compares: two hundred parameters' are a few tens of microseconds."""


BACKENDS = ("cpu", "triton")
"""Those with an engine."""


class Structure:
    """What modules are made of but for the values of their parameters, and whether that is as it was.

    Walking modules as `layers.obstacle` does takes longer than a short forward, so the walk is done once, and its
    findings are kept as flat lists that take microseconds to go through.
    """

    def __init__(
        self, modules: list[nn.Module], firing: list[nn.Module], holder: nn.Module | None = None
    ) -> None:
        """firing: the modules whose hooks are called. holder: one whose children are the outermost of `modules`."""
        self._modules, self._classes = modules, [type(module) for module in modules]
        self._without_forward = [m.__dict__ for m in modules if "forward" not in m.__dict__]
        # what is empty now may fill up without a say in the forward, unless a class or a forward changes too
        self._held: list[dict[str, Any]] = [] if holder is None else [holder._modules]
        self._held += [held for m in modules for held in (m._modules, m._parameters, m._buffers) if held]
        self._values = _values(self._held)
        self._attributes = [
            (module.__dict__, name, module.__dict__[name])
            for module in modules
            for name in ("groups", "eps", "num_attention_heads", "forward", SETTINGS)
            if name in module.__dict__
        ]
        self._hooks = [
            module.__dict__[kind]
            for module in firing
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ]
        self._next_hook = RemovableHandle.next_id
        self._dropouts = [m.__dict__ for m in modules if isinstance(m, nn.Dropout)]
        self._parameters = [p for m in modules for p in m._parameters.values() if p is not None]

    def unchanged(self) -> bool:
        """Whether modules, their classes, parameters (by identity) and the numbers they keep are the same; no hooks."""
        return (
            all(map(operator.is_, map(type, self._modules), self._classes))
            and _same(_values(self._held), self._values)
            and all(own.get(name) == value for own, name, value in self._attributes)
            and self._no_hooks()
            and not any(map(dict.__contains__, self._without_forward, repeat("forward")))
        )

    def hooked(self) -> bool:
        """Whether a hook is registered on a module."""
        return any(self._hooks)

    def _no_hooks(self) -> bool:
        if self._next_hook != RemovableHandle.next_id:  # a hook was registered, somewhere in this process
            if self.hooked():
                return False
            self._next_hook = RemovableHandle.next_id
        return True

    def dropout_is_off(self) -> bool:
        """Whether no dropout would drop anything."""
        return not any(own["training"] and own["p"] > 0.0 for own in self._dropouts)

    def parameters(self) -> list[nn.Parameter]:
        """All of the modules'."""
        return list(self._parameters)


class Snapshot(Structure):
    """All that must be as it was for an engine, made of an encoder's layers, to be the module's forward."""

    native: CpuEncoder | TritonEncoder
    """The engine."""
    lasting: bool
    """Whether `current` would notice a change; if not, the snapshot serves one call."""

    def __init__(self, encoder: nn.Module, library: Library) -> None:
        """For an encoder without `obstacle`."""
        modules = list(encoder.layers.modules())  # type: ignore[union-attr]
        firing = [m for m in modules if not (library.channels_first and type(m) is library.layer)]
        super().__init__(modules, firing, encoder)

    def current(self, rows: int) -> bool:
        """Whether nothing has changed since: modules, parameters, hooks, and of values what the engine keeps.

        rows: tokens of the call that asks.
        """
        return self.unchanged() and self._same_parameters(rows)

    def is_for(self, backend: str, precision: str) -> bool:
        """Whether this is what `snapshot_of` would make."""
        raise NotImplementedError

    def misfit(self, x: Tensor) -> str | None:
        """Why the engine can't take these hidden states, [batch, tokens, channels], or None."""
        if x.shape[2] != self.native.channels:
            return f"hidden_states has {x.shape[2]} channels, the layers have {self.native.channels}"
        return None

    def _same_parameters(self, rows: int) -> bool:
        raise NotImplementedError


class PackedSnapshot(Snapshot):
    """A native encoder, which has packed the values of the parameters.

    Of these, writes through `.data` or another tensor's view show at once if they hit an element that every call
    compares, and otherwise by the time that calls add up to `cpu.ROWS_FOR_ALL` tokens.
    """

    native: CpuEncoder

    def __init__(self, encoder: nn.Module, library: Library, precision: str) -> None:
        super().__init__(encoder, library)
        parameters = self.parameters()
        # a tensor of inference mode has no version
        self._state: list[int] | None = (
            None if any(p.is_inference() for p in parameters) else _state(parameters)
        )
        contiguous = [p for p in parameters if p.is_contiguous() and not p.is_meta]
        self._fingerprint = cpu.fingerprint(contiguous, SAMPLES)
        self.lasting = self._state is not None and len(contiguous) == len(parameters)
        self.native = CpuEncoder([layer_of(layer) for layer in encoder.layers], precision)  # type: ignore[union-attr]
        self._stands_alone = False

    def is_for(self, backend: str, precision: str) -> bool:
        if backend != "cpu" or precision != self.native.precision:
            return False
        return self._stands_alone or self.native.form == cpu.form_of(precision)

    def _same_parameters(self, rows: int) -> bool:
        return (
            self.native.instruction_set == cpu.instruction_set()
            and _state(self._parameters) == self._state
            and self._fingerprint.match(rows, torch.get_num_threads())
        )

    def stand_alone(self) -> None:
        """Take the parameters that are in the modules now for those that were packed: `GivenUp`, never written to."""
        self._stands_alone = True
        self._values = _values(self._held)
        self._parameters, self._state = [], []
        self._fingerprint = cpu.fingerprint([], 0)
        self.lasting = True


class LiveSnapshot(Snapshot):
    """A Triton encoder, which reads the parameters where they are: any values do, as long as they are there.

    In int8 it has read their values. Of changes to these, writes through `.data` or another tensor's view go unseen.
    """

    native: TritonEncoder

    def __init__(self, encoder: nn.Module, library: Library, precision: str) -> None:
        super().__init__(encoder, library)
        self._quantized = precision == "int8"
        # a tensor of inference mode has no version
        self.lasting = not (self._quantized and any(p.is_inference() for p in self._parameters))
        self._places = self._now()
        parameters_of = layer_of if self._quantized else _layer_of
        self.native = TritonEncoder([parameters_of(layer) for layer in encoder.layers], precision)  # type: ignore[union-attr]

    def is_for(self, backend: str, precision: str) -> bool:
        return backend == "triton" and precision == self.native.precision

    def misfit(self, x: Tensor) -> str | None:
        """As for every snapshot; and dtypes must agree, which a native encoder doesn't need asking."""
        if x.dtype != self.native.dtype or x.device != self.native.device:
            return f"hidden_states is {x.dtype} on {x.device}, the layers {self.native.dtype} on {self.native.device}"
        return super().misfit(x)

    def _same_parameters(self, rows: int) -> bool:
        return self._now() == self._places

    def _now(self) -> list[tuple[object, ...]]:
        places = _places(self._parameters)
        if self._quantized and self.lasting:
            places += [(p._version,) for p in self._parameters]
        return places


def _places(parameters: list[nn.Parameter]) -> list[tuple[object, ...]]:
    """Where the values are, and in which form: `.data = ...` changes that under a parameter's identity."""
    return [(p.data_ptr(), p.dtype, p.shape, p.stride()) for p in parameters]


def _state(parameters: list[nn.Parameter]) -> list[int]:
    """Where the values are, and how often they were written to. A tensor of inference mode doesn't count that."""
    return [number for p in parameters for number in (p.data_ptr(), p._version)]


def _values(held: list[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, held)))


def _same(values: list[Any], others: list[Any]) -> bool:
    """Whether they are the same objects: never by ==, which tensors answer element by element."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


def layer_of(layer: Any) -> Layer:
    """`_layer_of`, with the blocks that int8 cuts the inputs of its convolutions into."""
    plain = _layer_of(layer)
    return dataclasses.replace(plain, convs=with_blocks(plain.convs))  # type: ignore[arg-type]


def _layer_of(layer: Any) -> Layer:
    """The parameters of a layer without `layers.obstacle`. `activation` is "" for one that is a module to call."""
    blocks = {name: layer.__dict__["_modules"][name] for name, _ in CONVS}
    convs = [blocks[block].__dict__["_modules"][name] for block, name in CONVS]
    norms = [blocks[block].__dict__["_modules"]["layernorm"] for block in ("post_attention", "output")]
    return Layer(
        heads=blocks["attention"].num_attention_heads,
        activation=layers.fused_name(blocks["intermediate"].act) or "",
        convs=tuple(_conv(c) for c in convs),  # type: ignore[arg-type]
        norms=(
            Norm(norms[0].weight, norms[0].bias, norms[0].eps),
            Norm(norms[1].weight, norms[1].bias, norms[1].eps),
        ),
    )


def _conv(module: nn.Conv1d) -> Conv:
    weight, scale = quantized.form_of(module.weight) or (module.weight, None)
    return Conv(weight, scale, module.bias, module.groups)


def obstacle(encoder: nn.Module, library: Library, backend: str, precision: str) -> str | None:
    """Why no engine of `backend`, cpu or triton, can be made of these layers as they are, or None."""
    if backend == "cpu" and cpu.native_module_missing():
        return cpu.native_module_missing()
    if backend == "triton" and precision == "bfloat16":
        return (
            "precision 'bfloat16' is the CPU's; on a GPU, products run in the model's own dtype, or in int8"
        )
    if len(encoder.layers) == 0:  # type: ignore[arg-type]
        return "there are no layers"
    norms: list[Tensor] = []
    for index, layer in enumerate(_layers(encoder)):
        reason = layers.obstacle(layer, library)
        if reason is None and backend == "cpu":
            reason = cpu_encoder.refusal(layer_of(layer))
        elif reason is None:
            first = norms[0] if norms else layer.post_attention.layernorm.weight
            reason = triton_encoder.refusal(_layer_of(layer), first.device, first.dtype)
        if reason is not None:
            return f"layers.{index}: {reason}"
        norms.append(layer.post_attention.layernorm.weight)
    if len({norm.shape for norm in norms}) > 1:
        return "layers have different numbers of channels"
    return None


def snapshot_of(encoder: nn.Module, library: Library, backend: str, precision: str) -> Snapshot:
    """For an encoder without `obstacle`."""
    if backend == "triton":
        return LiveSnapshot(encoder, library, precision)
    return PackedSnapshot(encoder, library, precision)


def triton_passes(layer: Any) -> triton_encoder.Passes:
    """Which passes of a layer without `obstacle` are one Triton kernel."""
    return triton_encoder.Passes(_layer_of(layer))


def _layers(encoder: nn.Module) -> Iterator[Any]:
    yield from encoder.layers  # type: ignore[misc]


def mask_is_padding(mask: Tensor) -> bool:
    """Whether a mask added to scores says for every key alike, in all heads and rows, yes (0) or no (the lowest)."""
    mask = by_key(mask)
    if mask.shape[1:3] != (1, 1):
        return False
    return bool(((mask == 0) | (mask == torch.finfo(mask.dtype).min) | (mask == -torch.inf)).all())
