"""`squeezebert-fast evaluate`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from squeezebert_fast.answering.options import PRECISIONS
from squeezebert_fast.cli import options
from squeezebert_fast.cli.evaluation_report import print_report, write_predictions
from squeezebert_fast.cli.kept import kept_columns_named
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.task_options import EXAMPLES_HELP, TaskOptions, task_of
from squeezebert_fast.cli.writing import checked_output, row_format
from squeezebert_fast.errors import InputError, check_among, counted
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.sources import name_of

if TYPE_CHECKING:
    from squeezebert_fast.pretrained import Model


@spread
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help=f"Examples with their labels. {EXAMPLES_HELP} - is standard input."
        ),
    ],
    model: options.Model,
    data: TaskOptions,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Measure in float32, bfloat16 or int8, or in several, separated by commas; by default as the model is "
            "stored.",
            autocompletion=options.completing_list(PRECISIONS),
        ),
    ] = None,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = 32,
    as_json: options.AsJson = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="A .jsonl or .csv file to write, an example a row: its own columns, its label, the model's prediction "
            "and score, whether that is right, and the loss."
        ),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(help="A .png or .svg file to draw which label was taken for which; needs matplotlib."),
    ] = None,
    worst: Annotated[
        int,
        typer.Option(min=0, help="Show this many examples, those with the highest losses, the worst first."),
    ] = 0,
    threads: options.Threads = None,
    device: options.Device = "auto",
) -> None:
    """Measure how good a model is on labelled examples, class by class, in each of several precisions.

    The task is the one that the model was trained for. Columns and maximum length are by default those that it was
    trained with, so finetune's dev data gives finetune's figures. The weights of an int8 checkpoint stay what int8
    made of them in every precision.

    Beside the metrics there are a table by class (of tags by type of entity), what was taken for what, and how far
    scores can be relied upon.

    Example:

        echo 'text,label' > dev.csv
        echo 'A lovely film.,positive' >> dev.csv
        echo 'A waste of time.,negative' >> dev.csv
        squeezebert-fast evaluate dev.csv -m shipped:sentiment --worst 1
    """
    wanted = [] if precision is None else [name.strip() for name in precision.split(",")]
    for name in wanted:
        check_among("the precision", name, PRECISIONS, InputError)
    single = {"--predictions": predictions, "--confusion": confusion, "--worst": 0 if as_json else worst}
    for option, given in single.items():
        if given and len(set(wanted)) > 1:
            hint = "; --json has those of each" if option == "--worst" else ""
            raise InputError(f"{option} is for one precision, but --precision gives {len(set(wanted))}{hint}")
    if predictions is not None:
        row_format(predictions, None)
        predictions = checked_output(predictions)
    if confusion is not None:
        confusion = checked_output(confusion)

    from squeezebert_fast.answering.running import check_length, use_threads
    from squeezebert_fast.benchmark import check_plot
    from squeezebert_fast.loading import cross_encoder
    from squeezebert_fast.loading.transformers_models import token_limit
    from squeezebert_fast.pretrained import find, is_int8
    from squeezebert_fast.training import devices
    from squeezebert_fast.training.confusion_picture import draw_confusion
    from squeezebert_fast.training.examining import Report, examine
    from squeezebert_fast.training.tasks.base import DataSet
    from squeezebert_fast.training.tasks.sequences import Regression

    if confusion is not None:
        check_plot(confusion)
    use_threads(threads)
    where = devices.choose(device)
    stored = find(model)
    task = task_of(stored, data, whole_rows=predictions is not None)
    if isinstance(task, Regression):
        task.activation = cross_encoder.activation(stored.files, trained_since=bool(stored.trained_with.task))
    if confusion is not None and not task.has_classes:
        raise InputError(f"--confusion means nothing for {task.name}, which has no classes")
    for output in (predictions, confusion):
        if output is not None:
            checked_output(output, task.files(source))
    kept = stored.trained_with.for_task(task.name)
    with held_warnings():
        with kept_columns_named(model, kept, vars(data)):
            examples = task.read(source)
        tokenizer = stored.tokenizer(of_words=task.reads_words)
        loaded = stored.load(task.model_class)
        check_length(max_length, loaded.config, model)
        length = max_length or min(token_limit(loaded.config), kept.max_length or tokenizer.model_max_length)
        prompt = cross_encoder.prompts(stored.files).chosen(None, model)
        asked = [each._replace(text=prompt + each.text) for each in examples] if prompt else examples
        rows = DataSet(examples, task.encode(asked, tokenizer, loaded.config, length))
    from_int8 = is_int8(loaded)
    wanted = list(dict.fromkeys(wanted)) or ["int8" if from_int8 else "float32"]
    as_loaded = from_int8 and wanted == ["int8"] and where.type == "cpu"
    if from_int8 and not as_loaded:
        loaded = stored.load(task.model_class, dequantize=True)
    if not as_loaded:
        loaded.to(where)
    reports: dict[str, Report] = {}
    for name in wanted:
        measured = loaded if as_loaded else _in_precision(loaded, name)
        pad = measured.config.pad_token_id or 0
        reports[name] = examine(measured, task, rows, pad, batch_size, device=where)
    report = reports[wanted[0]]
    if predictions is not None:
        write_predictions(report, predictions)
    if confusion is not None:
        assert report.tables is not None  # it has classes
        draw_confusion(report.tables.confusion, confusion)
    if as_json:
        typer.echo(json.dumps({name: each.as_json(worst) for name, each in reports.items()}))
        return
    reading = f", {task.reading}" if task.reading else ""
    data_read = f"{counted(len(examples), 'example')} of {name_of(source)}"
    typer.echo(f"{task.name}, {data_read} cut at {counted(length, 'token')}{reading}")
    print_report(reports, worst)


def _in_precision(model: Model, precision: str) -> Model:
    """The float model, or on a GPU perhaps a copy of it, patched for a precision."""
    from squeezebert_fast.patching import patch

    if precision == "bfloat16" and model.device.type == "cuda":  # where products run in the model's own dtype
        return patch(copy.deepcopy(model).bfloat16(), unpad=True, strict=True)
    return patch(model, precision=precision, unpad=True, strict=precision != "float32")
