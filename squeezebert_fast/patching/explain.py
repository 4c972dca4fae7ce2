"""`explain`: which backend serves each operation of a model, and why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.patching.encoder import AcceleratedEncoder
from squeezebert_fast.patching.engines import ENGINES
from squeezebert_fast.patching.families.family import Family, find
from squeezebert_fast.patching.patch import is_encoder, no_encoder
from squeezebert_fast.patching.plan import Plan, encoder_family, plan_of
from squeezebert_fast.patching.swapping import SETTINGS, Settings, has_own_forward

PARTS = (
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
"""A layer's parts in execution order, by names that but for attention's are those of `Parts`, and their operations."""


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
    """Rows in the order of execution. `str()` draws them as a table: equal layers once, and a layer's equal parts.

    >>> explanation = squeezebert_fast.explain(squeezebert_fast.load_quantized(SENTIMENT_MODEL))
    >>> {row.backend for row in explanation.rows}
    {'cpu'}
    """

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        table = Table(
            "layer", "part", "operation", "backend", "precision", "reason", box=None, pad_edge=False
        )
        for layer, rows in _merge_equal_layers(self.rows):
            for number, cells in enumerate(_merge_equal_parts(rows)):
                table.add_row("" if number else layer, *cells)
        # plain text whatever the environment says of colours, and brackets in a reason are no markup
        console = Console(file=io.StringIO(), width=140, color_system=None, markup=False, emoji=False)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().rstrip()


def _merge_equal_layers(rows: tuple[Row, ...]) -> Iterator[tuple[str, list[Row]]]:
    by_layer = [list(layer) for _, layer in groupby(rows, key=lambda row: row.layer)]
    for _, equal in groupby(by_layer, key=lambda layer: [(row.part, *_answer(row)) for row in layer]):
        first, *others = equal
        name = first[0].layer
        yield (f"{name} to {others[-1][0].layer.rsplit('.', 1)[-1]}" if others else name), first


def _merge_equal_parts(layer: list[Row]) -> Iterator[tuple[str, str, str, str, str]]:
    """A layer's rows as cells, parts in a row that have one answer together: "query to output_norm", "3 operations"."""
    for answer, equal in groupby(layer, key=_answer):
        rows = list(equal)
        parts = rows[0].part if len(rows) == 1 else f"{rows[0].part} to {rows[-1].part}"
        operations = list(dict.fromkeys(row.operation for row in rows))
        yield parts, operations[0] if len(operations) == 1 else f"{len(operations)} operations", *answer


def _answer(row: Row) -> tuple[str, str, str]:
    return row.backend, row.precision, row.reason


def explain(model: nn.Module, backend: str | None = None) -> Explanation:
    """Which backend serves each operation of `model`'s encoders, as they are now, and why.

    Args:
        model: a module that contains an encoder, patched or not.
        backend: tell what this backend would do in place of the one that the model was patched with.

    What only a call can tell is left out: `output_attentions`, dispatch modes and function transforms fall back when
    they happen. What is told of one call for all layers is inference; with gradients or dropout, under autocast and
    under torch.compile each operation has a kernel of its own. Raises ArgumentError if there is no encoder in `model`.

    >>> model = SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=1))
    >>> squeezebert_fast.explain(model).rows[0].reason
    'the model is not patched'
    >>> squeezebert_fast.explain(squeezebert_fast.patch(model)).rows[0].backend
    'cpu'
    """
    if backend is not None:
        backends.check_name(backend)
    encoders = [(name, module) for name, module in model.named_modules() if is_encoder(module)]
    if not encoders:
        raise ArgumentError(no_encoder(model))
    return Explanation(
        tuple(row for name, encoder in encoders for row in _rows(name or "encoder", encoder, backend))
    )


def _rows(name: str, encoder: nn.Module, backend: str | None) -> Iterator[Row]:
    family = encoder_family(encoder)
    patched = isinstance(encoder, AcceleratedEncoder)
    settings = encoder.__dict__[SETTINGS] if patched else Settings(backend or "auto", strict=False)
    if backend is None and patched:
        backend = settings.backend
    plan: Plan | str = "the model is not patched" if backend is None else plan_of(encoder)
    if isinstance(plan, Plan) and has_own_forward(encoder):
        plan = "the forward of the encoder is overridden"
    together = _by_engine(encoder, plan, settings, backend or "auto") if isinstance(plan, Plan) else None
    for index, layer in enumerate(family.layers_of(encoder)):
        own_modules = plan.obstacles[index] if isinstance(plan, Plan) else plan
        reason = ""
        for part, operation in PARTS:
            weight = _weight(layer, family, part)
            precision = "" if weight is None else str(weight.dtype).removeprefix("torch.")
            if together is not None:
                reason = together[1][index].get(part, reason)
                choice = backends.Choice(together[0], reason)
                if choice.backend == "cpu" or settings.precision == "int8":
                    precision = settings.precision
            elif own_modules or weight is None:
                choice = backends.Choice("reference", own_modules or "the layer has no parameters")
            else:
                sizes = _sizes(family.parts(layer).heads, operation, weight)
                request = Request(operation, weight.device, weight.dtype, sizes=sizes)
                choice = backends.choose(request, backend or "auto")
                if choice.backend == "triton" and settings.precision != "float32":
                    choice = backends.Choice("triton", f"not in {settings.precision}: one op at a time")
            yield Row(
                f"{name}.{family.layers}.{index}", part, operation, choice.backend, precision, choice.reason
            )


def _by_engine(
    encoder: nn.Module, plan: Plan, settings: Settings, backend: str
) -> tuple[str, list[dict[str, str]]] | None:
    """The backend whose engine runs all layers in inference, and what it says of each, or None if none does.

    Without gradients and dropout it does.
    """
    name = "cpu"
    if settings.keep_original:
        weight = next(encoder.parameters(), None)
        if weight is None:
            return None
        name = backends.choose(Request("encoder", weight.device, weight.dtype), backend).backend
        if name not in ENGINES or plan.engine_obstacle(name, settings.precision):
            return None
    return name, [ENGINES[name].reasons(layer, settings.precision, plan.made) for layer in plan.layers()]


def _sizes(heads: int, operation: str, weight: Tensor) -> dict[str, int]:
    """`Request.sizes` of a layer without obstacle."""
    if operation == "attention":
        return {"channels": weight.shape[0], "num_heads": heads}
    return {"channels": weight.shape[0]} if operation == "add_layer_norm" else {}


def _weight(layer: nn.Module, family: Family, part: str) -> Tensor | None:
    """The weight of a part, or one that stands for it in a layer of another build."""
    place = family.places._asdict()["query" if part == "attention" else part]
    try:
        weight = find(layer, tuple(place.split("."))).weight
    except AttributeError:
        weight = None
    return weight if isinstance(weight, Tensor) else next(layer.parameters(), None)
