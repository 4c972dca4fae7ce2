"""Measure everything and keep it.

    python -m benchmarks.compare --out benchmarks/results

prints the tables and writes models.json, models.svg, kernel.json and kernel.svg. README.md says what they
mean.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.kernel import measure_kernel
from benchmarks.models import SHAPES, Shape, measure_models
from benchmarks.peers import ENGINES, WrongEngine
from benchmarks.report import Row, cpu_model, surroundings, table, write_json
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import Case, Report, check_plot
from squeezebert_fast.errors import SqueezeBertFastError


def shape(text: str) -> Shape:
    batch, _, tokens = text.partition("x")
    if not (batch.isdecimal() and tokens.isdecimal() and int(batch) >= 1 and 4 <= int(tokens) <= 512):
        raise argparse.ArgumentTypeError(f"{text!r} is not BATCHxTOKENS with 4 to 512 tokens, such as 8x128")
    return int(batch), int(tokens)


def engine(text: str) -> str:
    if text not in ENGINES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(ENGINES)}")
    return text


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for JSON and plots")
    parser.add_argument("--suite", choices=("models", "kernel", "all"), default="all")
    parser.add_argument("--repeats", type=positive, default=30, help="rounds; %(default)s by default")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--shapes", type=shape, nargs="+", default=SHAPES, metavar="BATCHxTOKENS")
    parser.add_argument("--engines", type=engine, nargs="+", default=tuple(ENGINES), metavar="NAME")
    parser.add_argument("--no-bert", action="store_true", help="leave BERT-base out")
    return parser.parse_args()


def plot(path: Path, title: str, rows: Iterable[Row]) -> None:
    """Bars for the rows that `rows` holds, each case with one peak."""
    cases = tuple(
        Case(name, tuple(row.timing for row in group), group[0].flops, group[0].peak)
        for name, group in ((name, list(rows)) for name, rows in groupby(rows, key=lambda row: row.case))
    )
    Report(title, cases).plot(path)


def run_suite(
    name: str, title: str, cases: Iterable[list[Row]], plotted: Callable[[Row], bool], out: Path, repeats: int
) -> None:
    """Measure, print each case when it is done, and write the files."""
    about = surroundings(" ".join(["python -m benchmarks.compare", *sys.argv[1:]]), repeats)
    rows: list[Row] = []
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.rule(", ".join([*title.splitlines(), f"{torch.get_num_threads()} threads"]))
    for case in cases:
        console.print(table(case))
        rows += case
    write_json(out / f"{name}.json", {**about, "rows": [row.to_dict() for row in rows]})
    plot(out / f"{name}.svg", title, filter(plotted, rows))
    console.print(f"wrote {out / name}.json and .svg")


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names every torchvision operator it lacks
    warnings.simplefilter("ignore")  # of the exporters
    chosen.out.mkdir(parents=True, exist_ok=True)
    check_plot(chosen.out / "models.svg")
    if chosen.suite in ("models", "all"):
        with tempfile.TemporaryDirectory() as folder:
            cases = measure_models(
                chosen.engines, chosen.shapes, chosen.repeats, Path(folder), with_bert=not chosen.no_bert
            )
            title = f"Base model, float32\n{cpu_model()}"
            run_suite(
                "models", title, cases, lambda row: row.timing.name in ENGINES, chosen.out, chosen.repeats
            )
    if chosen.suite in ("kernel", "all"):
        best = cpu.instruction_set()
        title = f"Grouped pointwise convolution, 1024 tokens, float32\n{cpu_model()}"
        run_suite(
            "kernel",
            title,
            measure_kernel(chosen.repeats),
            lambda row: row.timing.name.startswith(("F.", best)),
            chosen.out,
            chosen.repeats,
        )


if __name__ == "__main__":
    try:
        main()
    except (SqueezeBertFastError, WrongEngine) as error:
        sys.exit(f"error: {error}")
