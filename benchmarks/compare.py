"""Measure the model and BERT-base in every engine and the kernel in every build, and keep it.

    python -m benchmarks.compare --out benchmarks/results

prints the tables and writes JSON and SVG of each suite: models, bert and kernel. README.md says what they mean.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.command import about, add_precisions, add_shapes, console, exit_with, parser_for, prepare
from benchmarks.kernel import LAYERS, measure_kernel
from benchmarks.models import SHAPES, measure_bert, measure_models
from benchmarks.peers import BERT_ENGINES, ENGINES, FAMILIES, Engine
from benchmarks.report import Case, Row, Shape, cpu_title, plot, rows_of, shape_name, table, write_json
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import check_plot

SAME = ("command", "git_commit", "cpu", "cpu_features", "versions")
"""What must be as it was for a run to go on with another's rows."""


SUITES = ("models", "bert", "kernel")


def arguments() -> argparse.Namespace:
    parser = parser_for("compare", __doc__, repeats=8)
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="all")
    add_shapes(parser, SHAPES)
    add_precisions(parser)
    parser.add_argument("--engines", choices=FAMILIES, nargs="+", default=FAMILIES, metavar="NAME")
    parser.add_argument("--no-bert", action="store_true", help="leave BERT-base out")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the same command finished")
    return parser.parse_args()


def finished(path: Path, now: dict[str, Any]) -> tuple[list[Row], list[dict[str, str]]]:
    """The rows, and what was left out, that an interrupted run of the same command left at `path`."""
    if not path.exists():
        return [], []
    before = json.loads(path.read_text(encoding="utf-8"))
    if any(before.get(key) != now[key] for key in SAME):
        return [], []
    return rows_of(before["rows"]), before["left_out"]


def run_suite(
    name: str,
    title: str,
    wanted: Iterable[str],
    measured: Callable[[list[str]], Iterator[Case]],
    plotted: Callable[[Row], bool],
    chosen: argparse.Namespace,
) -> None:
    """Measure the cases in `wanted`, and print and write each when it is done."""
    path, shown = chosen.out / f"{name}.json", console()
    where = about("compare", chosen.repeats)
    rows, left_out = finished(path, where) if chosen.resume else ([], [])
    done = list(dict.fromkeys(row.case for row in rows))
    shown.rule(", ".join([*title.splitlines(), f"{torch.get_num_threads()} threads"]))
    if done:
        shown.print(f"measured before: {', '.join(done)}")
    for case in measured([case for case in wanted if case not in done]):
        if case.rows:
            shown.print(table(case.rows))
        rows += case.rows
        left_out += case.left_out_dicts()
        write_json(path, {**where, "rows": [row.to_dict() for row in rows], "left_out": left_out})
    if rows:
        plot(path.with_suffix(".svg"), title, filter(plotted, rows))
        shown.print(f"wrote {path} and .svg")


def run_engines(
    name: str,
    title: str,
    known: Sequence[Engine],
    measured: Callable[[list[Engine], list[Shape], int, Path, Console], Iterator[Case]],
    chosen: argparse.Namespace,
) -> None:
    """A suite of the chosen among the `known` engines, shape by shape."""
    engines = [e for e in known if e.precision in chosen.precisions and e.family in chosen.engines]
    shapes = {shape_name(shape): shape for shape in chosen.shapes}
    names = {engine.name for engine in known}
    with tempfile.TemporaryDirectory() as folder:
        run_suite(
            name,
            f"{title}\n{cpu_title()}",
            shapes,
            lambda cases: measured(
                engines, [shapes[case] for case in cases], chosen.repeats, Path(folder), console()
            ),
            lambda row: row.timing.name in names,  # not BERT-base beside SqueezeBERT, which does other work
            chosen,
        )


def run_kernel(chosen: argparse.Namespace) -> None:
    best, layers = cpu.instruction_set(), {layer.name: layer for layer in LAYERS}
    run_suite(
        "kernel",
        f"Grouped pointwise convolution, 1024 tokens, float32\n{cpu_title()}",
        layers,
        lambda cases: measure_kernel([layers[case] for case in cases], chosen.repeats),
        lambda row: row.timing.name.startswith("F.") or row.timing.name.split()[0] == best,
        chosen,
    )


def main() -> None:
    chosen = arguments()
    prepare(chosen)
    check_plot(chosen.out / "models.svg")
    if chosen.suite in ("models", "all"):
        measured = partial(measure_models, with_bert=not chosen.no_bert)
        run_engines("models", "Base model", ENGINES, measured, chosen)
    if chosen.suite == "bert" or (chosen.suite == "all" and not chosen.no_bert):
        run_engines("bert", "BERT-base", BERT_ENGINES, measure_bert, chosen)
    if chosen.suite in ("kernel", "all"):
        run_kernel(chosen)


if __name__ == "__main__":
    exit_with(main)
