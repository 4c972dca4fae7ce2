"""`squeezebert-fast evaluate`."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.kept import kept_columns_named
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.task_options import TaskOptions, task_of
from squeezebert_fast.errors import InputError
from squeezebert_fast.streams import held_warnings

if TYPE_CHECKING:
    from squeezebert_fast.pretrained import Model

PRECISIONS = ("float32", "bfloat16", "int8")


@spread
def evaluate(
    source: Annotated[str, typer.Argument(metavar="DATA", help="Examples with their labels.")],
    model: options.Model,
    data: TaskOptions,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, int8, separated by commas: the metrics of each; by default the checkpoint's own."
        ),
    ] = None,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: options.Threads = None,
    device: options.Device = "auto",
) -> None:
    """Measure how good a model is on labelled examples, in each of several precisions.

    The task is the one that the model was trained for. Columns and maximum length are by default those that it was
    trained with, so finetune's dev data gives finetune's figures. The weights of an int8 checkpoint stay what int8
    made of them in every precision.

    Example: squeezebert-fast evaluate -m ./sentiment dev.tsv --precision float32,int8
    """
    wanted = [] if precision is None else [name.strip() for name in precision.split(",")]
    for name in wanted:
        if name not in PRECISIONS:
            raise InputError(f"the precision is {name!r}, expected one of {', '.join(PRECISIONS)}")

    from squeezebert_fast.cli.running import use_threads
    from squeezebert_fast.loading.transformers_models import token_limit
    from squeezebert_fast.pretrained import find, is_int8
    from squeezebert_fast.training import devices
    from squeezebert_fast.training.evaluation import evaluate as measure
    from squeezebert_fast.training.tasks.base import DataSet

    use_threads(threads)
    where = devices.choose(device)
    stored = find(model)
    task = task_of(stored, data)
    kept = stored.trained_with.for_task(task.name)
    with kept_columns_named(model, kept, vars(data)):
        examples = task.read(source)
    tokenizer = stored.tokenizer(of_words=task.reads_words)
    with held_warnings():
        loaded = stored.load(task.model_class)
        limit = token_limit(loaded.config)
        if max_length is not None and max_length > limit:
            raise InputError(f"the maximum length is {max_length}, but {model} takes {limit} tokens at most")
        length = max_length or min(limit, kept.max_length or tokenizer.model_max_length)
        rows = DataSet(examples, task.encode(examples, tokenizer, loaded.config, length))
    from_int8 = is_int8(loaded)
    wanted = list(dict.fromkeys(wanted)) or ["int8" if from_int8 else "float32"]
    as_loaded = from_int8 and wanted == ["int8"] and where.type == "cpu"
    if from_int8 and not as_loaded:
        loaded = stored.load(task.model_class, dequantize=True)
    if not as_loaded:
        loaded.to(where)
    results: dict[str, dict[str, float]] = {}
    for name in wanted:
        measured = loaded if as_loaded else _in_precision(loaded, name)
        pad = measured.config.pad_token_id or 0
        results[name] = measure(measured, task, rows, pad, batch_size, device=where)
    if as_json:
        typer.echo(json.dumps(results))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *results, box=None, pad_edge=False)
    for metric in next(iter(results.values())):
        table.add_row(metric, *(f"{values[metric]:.4f}" for values in results.values()))
    reading = f", {task.reading}" if task.reading else ""
    typer.echo(f"{task.name}, {len(examples)} examples of {source}{reading}")
    Console(markup=False, emoji=False, highlight=False).print(table)


def _in_precision(model: Model, precision: str) -> Model:
    """The float model, or on a GPU perhaps a copy of it, patched for a precision."""
    from squeezebert_fast.patching import patch

    if precision == "bfloat16" and model.device.type == "cuda":  # where products run in the model's own dtype
        return patch(copy.deepcopy(model).bfloat16(), unpad=True, strict=True)
    return patch(model, precision=precision, unpad=True, strict=precision != "float32")
