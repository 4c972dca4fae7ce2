"""`explain`: which backend serves each operation of a model, and why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.patching import engine
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.encoder import AcceleratedEncoder, is_encoder, lasting_obstacle, snapshot_of
from squeezebert_fast.patching.library import Library, library_of
from squeezebert_fast.patching.swapping import SETTINGS, Settings, has_own_forward

PARTS = (
    ("query", "grouped_pointwise_conv", "attention.query"),
    ("key", "grouped_pointwise_conv", "attention.key"),
    ("value", "grouped_pointwise_conv", "attention.value"),
    ("attention", "attention", "attention.query"),
    ("post_attention", "grouped_pointwise_conv", "post_attention.conv1d"),
    ("post_attention_norm", "add_layer_norm", "post_attention.layernorm"),
    ("intermediate", "grouped_pointwise_conv", "intermediate.conv1d"),
    ("output", "grouped_pointwise_conv", "output.conv1d"),
    ("output_norm", "add_layer_norm", "output.layernorm"),
)
"""A layer's parts in execution order: name, operation, and the module that tells device and precision."""


@dataclass(frozen=True)
class Row:
    """One operation of one layer."""

    layer: str
    part: str
    operation: str
    backend: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Rows in the order of execution. `str()` draws them as a table, equal layers drawn once."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        table = Table(
            "layer", "part", "operation", "backend", "precision", "reason", box=None, pad_edge=False
        )
        for layer, rows in _merge_equal_layers(self.rows):
            for number, row in enumerate(rows):
                first = layer if number == 0 else ""
                table.add_row(first, row.part, row.operation, row.backend, row.precision, row.reason)
        # plain text whatever the environment says of colours, and brackets in a reason are no markup
        console = Console(file=io.StringIO(), width=140, color_system=None, markup=False, emoji=False)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().rstrip()


def _merge_equal_layers(rows: tuple[Row, ...]) -> Iterator[tuple[str, list[Row]]]:
    by_layer = [(name, list(group)) for name, group in groupby(rows, key=lambda row: row.layer)]
    start = 0
    while start < len(by_layer):
        content = [(r.part, r.backend, r.precision, r.reason) for r in by_layer[start][1]]
        end = start
        while end + 1 < len(by_layer) and content == [
            (r.part, r.backend, r.precision, r.reason) for r in by_layer[end + 1][1]
        ]:
            end += 1
        name = by_layer[start][0]
        yield (
            name if end == start else f"{name} to {by_layer[end][0].rsplit('.', 1)[-1]}",
            by_layer[start][1],
        )
        start = end + 1


def explain(model: nn.Module, backend: str | None = None) -> Explanation:
    """Which backend serves each operation of `model`'s encoders, as they are now, and why.

    Args:
        model: a module that contains a SqueezeBertEncoder, patched or not.
        backend: tell what this backend would do in place of the one that the model was patched with.

    What only a call can tell is left out: `output_attentions`, dispatch modes and function transforms fall back when
    they happen. What is told of one call for all layers is inference; with gradients or dropout, under autocast and
    under torch.compile each operation has a kernel of its own. Raises ArgumentError if there is no encoder in `model`.
    """
    if backend is not None:
        backends.check_name(backend)
    rows: list[Row] = []
    found = False
    for name, module in model.named_modules():
        if is_encoder(module):
            found = True
            rows.extend(_explain_encoder(name or "encoder", module, backend))
    if not found:
        raise ArgumentError(f"model is a {type(model).__name__} without a SqueezeBertEncoder")
    return Explanation(tuple(rows))


def _explain_encoder(name: str, encoder: nn.Module, backend: str | None) -> Iterator[Row]:
    patched = isinstance(encoder, AcceleratedEncoder)
    settings = encoder.__dict__[SETTINGS] if patched else Settings(backend or "auto", strict=False)
    if backend is None and patched:
        backend = settings.backend
    library = library_of(type(encoder))
    assert library is not None  # is_encoder
    whole = "the model is not patched" if backend is None else lasting_obstacle(encoder, library)
    if whole is None and has_own_forward(encoder):
        whole = "the forward of the encoder is overridden"
    engine_choice = None if whole else _engine_choice(encoder, library, settings, backend or "auto")
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        together = _by_part(encoder, layer, engine_choice, settings) if engine_choice else {}
        own_modules = None if together else whole or layers.obstacle(layer, library)
        for part, operation, path in PARTS:
            weight = _weight(layer, path)
            precision = "" if weight is None else str(weight.dtype).removeprefix("torch.")
            if together:
                choice = together[part]
                if choice.backend == "cpu" or settings.precision == "int8":
                    precision = settings.precision
            elif own_modules or weight is None:
                choice = backends.Choice("reference", own_modules or "the layer has no parameters")
            else:
                sizes = _sizes(layer, operation, weight)
                request = Request(operation, weight.device, weight.dtype, sizes=sizes)
                choice = backends.choose(request, backend or "auto")
                if choice.backend == "triton" and settings.precision != "float32":
                    choice = backends.Choice("triton", f"not in {settings.precision}: one op at a time")
            yield Row(f"{name}.layers.{index}", part, operation, choice.backend, precision, choice.reason)


def _engine_choice(
    encoder: nn.Module, library: Library, settings: Settings, backend: str
) -> backends.Choice | None:
    """The backend whose engine runs all layers in inference, if one does; without gradients and dropout it does."""
    if not settings.keep_original:
        return backends.Choice("cpu", "originals given up")
    weight = next(encoder.parameters(), None)
    if weight is None:
        return None
    choice = backends.choose(Request("encoder", weight.device, weight.dtype), backend)
    if choice.backend not in engine.BACKENDS:
        return None
    return None if engine.obstacle(encoder, library, choice.backend, settings.precision) else choice


def _by_part(
    encoder: nn.Module, layer: nn.Module, choice: backends.Choice, settings: Settings
) -> dict[str, backends.Choice]:
    """What the engine does with each of PARTS."""
    if choice.backend == "triton" and settings.precision == "int8":
        reason = "int8 products, a kernel each, in inference"
        return {part: backends.Choice("triton", reason) for part, _, _ in PARTS}
    if choice.backend == "triton":
        passes = engine.triton_passes(layer)
        reasons = {
            "query": _pass("A", passes.attention_apart),
            "post_attention": _pass("B", None),
            "intermediate": _pass("C", passes.feed_forward_apart),
        }
        if passes.feed_forward_apart:
            reasons["output"] = _pass("B", None)
        by_part, reason = {}, ""
        for part, _, _ in PARTS:
            reason = reasons.get(part, reason)
            by_part[part] = backends.Choice("triton", reason)
        return by_part
    form, snapshot = cpu.form_of(settings.precision), snapshot_of(encoder)
    if not settings.keep_original and isinstance(snapshot, engine.PackedSnapshot):
        form = snapshot.native.form  # packed once and for all
    if settings.keep_original:
        reason = f"one call for all layers in inference, {_how(settings.precision, form)}"
    else:
        reason = f"one call for all layers, {_how(settings.precision, form)}, originals given up"
    return {part: backends.Choice("cpu", reason) for part, _, _ in PARTS}


def _pass(name: str, apart: str | None) -> str:
    if apart is None:
        return f"pass {name}, one kernel, in inference"
    return f"a kernel of its own, in inference: {apart}"


def _sizes(layer: Any, operation: str, weight: Tensor) -> dict[str, int]:
    """`Request.sizes` of a layer without obstacle."""
    if operation == "attention":
        return {"channels": weight.shape[0], "num_heads": layer.attention.num_attention_heads}
    return {"channels": weight.shape[0]} if operation == "add_layer_norm" else {}


def _how(precision: str, form: str) -> str:
    build = cpu.instruction_set()
    if products := cpu.products_by_parts(form):
        word = form.removeprefix("float32_")
        return f"{build} build, from {cpu.LONG_SEQUENCE} tokens by bfloat16 products, {products} for one ({word})"
    if cpu.has_instruction(precision):
        return f"{build} build"
    return f"{build} build, whose CPU has no instruction for {precision}: wider ones compute it"


def _weight(layer: nn.Module, path: str) -> Tensor | None:
    """The weight at `path`, or one that stands for it in a layer of another build."""
    try:
        weight = layer.get_submodule(path).weight
    except AttributeError:
        weight = None
    return weight if isinstance(weight, Tensor) else next(layer.parameters(), None)
