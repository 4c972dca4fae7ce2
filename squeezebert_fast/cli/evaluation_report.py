"""What `evaluate` prints of a model, and writes of each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from squeezebert_fast.answering.rows import beside
from squeezebert_fast.cli.writing import row_format, row_writer
from squeezebert_fast.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from squeezebert_fast.training.examining import Report
    from squeezebert_fast.training.metrics import Calibration, Confusion
    from squeezebert_fast.training.tasks.judged import Answer, Judgement, Tables

LISTED = 30  # classes in a table
MISTAKES = 10  # of what was taken for what, where the whole matrix is too wide
SURE = 0.9  # a score that people rely on
CALIBRATED = 0.02  # a difference between scores and what is right that chance may make


def print_report(reports: Mapping[str, Report], worst: int) -> None:
    """Print the metrics of each precision, and if there is one alone all else of it."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    _print_metrics({name: report.metrics for name, report in reports.items()}, console)
    if len(reports) > 1:
        return
    (report,) = reports.values()
    if report.tables is not None:
        _print_classes(report.tables, console)
        _print_confusion(report.tables.confusion, console)
    if report.calibration is not None:
        said = [answer for each in report.judgements for answer in each.answers]
        typer.echo(f"\n{in_words(report.calibration, said)}")
    if worst:
        typer.echo(f"\nhighest losses of {len(report.judgements):,}")
        for judgement in report.worst(worst):
            typer.echo(_cut(line_of(judgement), console.width))


def _print_metrics(results: Mapping[str, Mapping[str, float]], console: Console) -> None:
    from rich.table import Table

    table = Table("metric", *results, box=None, pad_edge=False)
    for metric in next(iter(results.values())):
        table.add_row(metric, *(f"{values[metric]:.4f}" for values in results.values()))
    console.print(table)


def _print_classes(tables: Tables, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    for name in ("precision", "recall", "f1", "support"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = list(tables.classes.items())
    if len(rows) > LISTED:
        rows = sorted(rows, key=lambda row: row[1].f1)[:LISTED]
    for name, (*fractions, support) in rows:
        table.add_row(name, *(f"{value:.4f}" for value in fractions), f"{support:,}")
    typer.echo()
    console.print(table)
    if len(rows) < len(tables.classes):
        typer.echo(f"the {LISTED} lowest f1 of {len(tables.classes)} classes; --json has all")


def _print_confusion(confusion: Confusion, console: Console) -> None:
    from rich.table import Table

    columns = [
        max(len(name), *(len(f"{count:,}") for count in column))
        for name, column in zip(confusion.names, confusion.counts.T, strict=True)
    ]
    if max(map(len, confusion.names)) + sum(columns) + 2 * len(columns) <= console.width:
        table = Table(box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in confusion.names:
            table.add_column(name, justify="right", no_wrap=True)
        for name, counts in zip(confusion.names, confusion.counts.tolist(), strict=True):
            table.add_row(name, *(f"{count:,}" for count in counts))
        typer.echo("\nconfusion: a row for each label, a column for each prediction")
    else:
        table = Table("label", "taken for", box=None, pad_edge=False)
        table.add_column("times", justify="right")
        for label, prediction, count in confusion.mistakes()[:MISTAKES]:
            table.add_row(label, prediction, f"{count:,}")
        typer.echo("\nmost frequent mistakes; --confusion draws the whole matrix")
    console.print(table)


def in_words(calibration: Calibration, answers: Sequence[Answer]) -> str:
    """Whether the scores of answers can be relied upon."""
    gap = calibration.score - calibration.right
    verdict = "overconfident" if gap > CALIBRATED else "underconfident" if gap < -CALIBRATED else "calibrated"
    sure = [answer.right for answer in answers if answer.sure >= SURE]
    lines = [
        f"calibration: {verdict}, expected error {calibration.error:.4f}",
        f"the mean score is {calibration.score:.4f}, and {calibration.right:.4f} of the answers are right",
    ]
    if sure:
        lines.append(f"of {len(sure):,} with a score of {SURE} or more {sum(sure) / len(sure):.4f} are right")
    return "\n".join(lines)


def line_of(judgement: Judgement) -> str:
    """An example with what is wrong with its answer, on one line."""
    shown, label, said = judgement.shown, judgement.label, judgement.prediction
    score = "" if judgement.score is None else f" {judgement.score:.2f}"
    if "words" in shown:
        tagged = list(zip(shown["words"], label, said, strict=True))
        wrong = [f"{word} {tag}, said {ours or 'nothing'}" for word, tag, ours in tagged if tag != ours]
        answered = f"{len(wrong)} of {counted(len(tagged), 'word')} wrong"
        text = "; ".join(wrong) or " ".join(shown["words"])
    else:
        text = " | ".join(str(value) for value in shown.values())
        if isinstance(label, list):
            label, said = " / ".join(label) or "no answer", said or "no answer"
        elif isinstance(label, float):
            label, said = f"{label:g}", f"{said:.4g}"
        answered = f"{label}, said {said}{score}"
    return " ".join(f"{judgement.loss:8.4f}  {answered}: {text}".split("\n"))


def _cut(line: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return line if cell_len(line) <= width else set_cell_size(line, width - 3) + "..."


def write_predictions(report: Report, path: Path) -> None:
    """Write each example with what the model said of it, in the order of the data, as JSON lines or CSV.

    A table's columns stand first.
    """
    with row_writer(path, row_format(path, None)) as write:
        for judgement in report.judgements:
            write(beside(judgement.row or judgement.shown, judgement.verdict))
