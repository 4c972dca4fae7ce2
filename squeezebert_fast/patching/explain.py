"""`explain`: which backend serves each operation of a model, and why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table
from torch import nn

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.encoder import SETTINGS, AcceleratedEncoder, is_encoder

PART_OPERATIONS = (
    ("query", "grouped_pointwise_conv"),
    ("key", "grouped_pointwise_conv"),
    ("value", "grouped_pointwise_conv"),
    ("attention", "attention"),
    ("post_attention", "grouped_pointwise_conv"),
    ("post_attention_norm", "add_layer_norm"),
    ("intermediate", "grouped_pointwise_conv"),
    ("output", "grouped_pointwise_conv"),
    ("output_norm", "add_layer_norm"),
)


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
        console = Console(file=io.StringIO(), width=140)
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

    What only a call can tell is left out: autocast, tracing and `output_attentions` fall back when they happen.
    Raises ArgumentError if there is no encoder in `model`.
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
    if backend is None and patched:
        backend = encoder.__dict__[SETTINGS].backend
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        parameter = next(layer.parameters())
        precision = str(parameter.dtype).removeprefix("torch.")
        own_modules = None if backend is not None else "the model is not patched"
        own_modules = own_modules or layers.hooks_on_every_module() or layers.obstacle(layer)
        for part, operation in PART_OPERATIONS:
            if own_modules:
                choice = backends.Choice("reference", own_modules)
            else:
                choice = backends.choose(
                    Request(operation, parameter.device, parameter.dtype), backend or "auto"
                )
            yield Row(f"{name}.layers.{index}", part, operation, choice.backend, precision, choice.reason)
