"""All layers in one call: what each backend makes of them, and whether it still stands for them.

plan -> ENGINES[backend].obstacle(layers) -> ENGINES[backend](layers) -> current? -> run
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from squeezebert_fast.backends import cpu, cpu_encoder, quantized, triton_encoder
from squeezebert_fast.backends.cpu_encoder import CpuEncoder, with_blocks
from squeezebert_fast.backends.encoder_layer import Conv, Layer, Norm
from squeezebert_fast.backends.triton_encoder import TritonEncoder
from squeezebert_fast.patching.families.family import Family
from squeezebert_fast.patching.layers import fused_name
from squeezebert_fast.patching.structure import Places

SAMPLES = 8
"""Elements of each parameter that every call compares: two hundred parameters' are a few tens of microseconds."""

PASSES = ("query", "post_attention", "intermediate")
"""The parts of a layer with which a GPU's passes A, B and C begin."""


def layer_of(layer: nn.Module, family: Family) -> Layer:
    """The parameters of a layer without `obstacles.layer_obstacle`, as int8 cuts them.

    `activation` is "" for one that is a module to call.
    """
    parts = family.parts(layer)
    return with_blocks(
        Layer(
            heads=parts.heads,
            activation=fused_name(parts.activation) or "",
            query=_conv(parts.query),
            key=_conv(parts.key),
            value=_conv(parts.value),
            post_attention=_conv(parts.post_attention),
            post_attention_norm=_norm(parts.post_attention_norm),
            intermediate=_conv(parts.intermediate),
            output=_conv(parts.output),
            output_norm=_norm(parts.output_norm),
        )
    )


def _conv(module: nn.Conv1d | nn.Linear) -> Conv:
    weight, scale = quantized.form_of(module.weight) or (module.weight, None)
    return Conv(weight, scale, module.bias, module.groups if isinstance(module, nn.Conv1d) else 1)


def _norm(module: nn.LayerNorm) -> Norm:
    return Norm(module.weight, module.bias, module.eps)


class Engine:
    """What a backend made of layers: their forward, while it is current."""

    backend: ClassVar[str]
    native: CpuEncoder | TritonEncoder
    lasting: bool
    """Whether `current` would notice a change; if not, the engine serves one call."""

    def __init__(self, layers: Sequence[Layer], parameters: list[nn.Parameter], precision: str) -> None:
        """layers: at least one, without `obstacle`. parameters: all of them, as their modules hold them."""

    @classmethod
    def obstacle(cls, layers: Sequence[Layer], precision: str) -> str | None:
        """Why none can be made of these layers, at least one, or None."""
        raise NotImplementedError

    @classmethod
    def reasons(cls, layer: Layer, precision: str, made: Engine | None) -> dict[str, str]:
        """For `explain`: what it does, by the part of a layer, a field of Parts, with which that begins.

        made: the engine, where there is one already.
        """
        raise NotImplementedError

    def serves(self, precision: str) -> bool:
        """Whether this is what would be made now for `precision`."""
        raise NotImplementedError

    def current(self, rows: int) -> bool:
        """Whether all that it made of the parameters' values still stands for them.

        rows: tokens of the call that asks.
        """
        raise NotImplementedError

    def misfit(self, x: Tensor) -> str | None:
        """Why it can't take these hidden states, [batch, tokens, channels], or None."""
        if x.shape[2] != self.native.channels:
            return f"hidden_states has {x.shape[2]} channels, the layers have {self.native.channels}"
        return None


class CpuEngine(Engine):
    """A native encoder, which has packed the values of the parameters.

    Of these, writes through `.data` or another tensor's view show at once if they hit an element that every call
    compares, and otherwise by the time that calls add up to `cpu.ROWS_FOR_ALL` tokens.
    """

    backend = "cpu"
    native: CpuEncoder

    def __init__(self, layers: Sequence[Layer], parameters: list[nn.Parameter], precision: str) -> None:
        # a tensor of inference mode has no version
        self._places = None if any(p.is_inference() for p in parameters) else Places(parameters)
        contiguous = [p for p in parameters if p.is_contiguous() and not p.is_meta]
        self._fingerprint = cpu.fingerprint(contiguous, SAMPLES)
        self.lasting = self._places is not None and len(contiguous) == len(parameters)
        self.native = CpuEncoder(layers, precision)
        self._stands_alone = False

    @classmethod
    def obstacle(cls, layers: Sequence[Layer], precision: str) -> str | None:
        if missing := cpu.native_module_missing():
            return missing
        for index, layer in enumerate(layers):
            if reason := cpu_encoder.refusal(layer):
                return f"layers.{index}: {reason}"
        return None

    @classmethod
    def reasons(cls, layer: Layer, precision: str, made: Engine | None) -> dict[str, str]:
        form, alone = cpu.form_of(precision), isinstance(made, CpuEngine) and made._stands_alone
        if isinstance(made, CpuEngine) and alone:
            form = made.native.form  # packed once and for all
        if alone:
            return {"query": f"one call for all layers, {_build(precision, form)}, originals given up"}
        return {"query": f"one call for all layers in inference, {_build(precision, form)}"}

    def serves(self, precision: str) -> bool:
        same = precision == self.native.precision
        return same and (self._stands_alone or self.native.form == cpu.form_of(precision))

    def current(self, rows: int) -> bool:
        return (
            self.native.instruction_set == cpu.instruction_set()
            and (self._stands_alone or (self._places is not None and self._places.unchanged()))
            and self._fingerprint.match(rows, torch.get_num_threads())
        )

    def stand_alone(self) -> None:
        """Compare with no parameters from here on: they are `GivenUp`, and never written to."""
        self._stands_alone = True
        self._places = None
        self._fingerprint = cpu.fingerprint([], 0)
        self.lasting = True


class TritonEngine(Engine):
    """A Triton encoder, which reads the parameters where they are: any values do, as long as they are there.

    In int8 it has read their values. Of changes to these, writes through `.data` or another tensor's view go unseen.
    """

    backend = "triton"
    native: TritonEncoder

    def __init__(self, layers: Sequence[Layer], parameters: list[nn.Parameter], precision: str) -> None:
        self._parameters = parameters
        self._quantized = precision == "int8"
        # a tensor of inference mode has no version
        self.lasting = not (self._quantized and any(p.is_inference() for p in parameters))
        self._places = self._now()
        self.native = TritonEncoder(layers, precision)

    @classmethod
    def obstacle(cls, layers: Sequence[Layer], precision: str) -> str | None:
        if precision == "bfloat16":
            return "precision 'bfloat16' is the CPU's; on a GPU, products run in the model's own dtype, or in int8"
        first = layers[0].post_attention_norm.weight
        for index, layer in enumerate(layers):
            if reason := triton_encoder.refusal(layer, first.device, first.dtype):
                return f"layers.{index}: {reason}"
        return None

    @classmethod
    def reasons(cls, layer: Layer, precision: str, made: Engine | None) -> dict[str, str]:
        if precision == "int8":
            return {"query": "int8 products, a kernel each, in inference"}
        passes = triton_encoder.Passes(layer)
        apart = dict(zip(PASSES, (passes.attention_apart, None, passes.feed_forward_apart), strict=True))
        reasons = {part: _pass(name, apart[part]) for name, part in zip("ABC", PASSES, strict=True)}
        if passes.feed_forward_apart is not None:
            reasons["output"] = _pass("B", None)
        return reasons

    def serves(self, precision: str) -> bool:
        return precision == self.native.precision

    def misfit(self, x: Tensor) -> str | None:
        """As for every engine; and dtypes must agree, which a native encoder doesn't need asking."""
        if x.dtype != self.native.dtype or x.device != self.native.device:
            return f"hidden_states is {x.dtype} on {x.device}, the layers {self.native.dtype} on {self.native.device}"
        return super().misfit(x)

    def current(self, rows: int) -> bool:
        return self._now() == self._places

    def _now(self) -> list[tuple[object, ...]]:
        """Where the values are, and in which form: `.data = ...` changes that under a parameter's identity."""
        places: list[tuple[object, ...]] = [
            (p.data_ptr(), p.dtype, p.shape, p.stride()) for p in self._parameters
        ]
        if self._quantized and self.lasting:
            places += [(p._version,) for p in self._parameters]
        return places


ENGINES: dict[str, type[Engine]] = {engine.backend: engine for engine in (CpuEngine, TritonEngine)}
"""By the backend that has one."""


def obstacle(layers: Sequence[Layer], backend: str, precision: str) -> str | None:
    """Why no engine of `backend`, one of ENGINES, can be made of these layers, or None."""
    if not layers:
        return "there are no layers"
    if reason := ENGINES[backend].obstacle(layers, precision):
        return reason
    if len({layer.channels for layer in layers}) > 1:
        return "layers have different numbers of channels"
    return None


def _pass(name: str, apart: str | None) -> str:
    if apart is None:
        return f"pass {name}, one kernel, in inference"
    return f"a kernel of its own, in inference: {apart}"


def _build(precision: str, form: str) -> str:
    build = cpu.instruction_set()
    if products := cpu.products_by_parts(form):
        word = form.removeprefix("float32_")
        return f"{build} build, from {cpu.LONG_SEQUENCE} tokens by bfloat16 products, {products} for one ({word})"
    if cpu.has_instruction(precision):
        return f"{build} build"
    return f"{build} build, whose CPU has no instruction for {precision}: wider ones compute it"
