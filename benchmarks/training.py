"""Measure a training step, forward and backward: its time, its memory, and where ours spends it.

    python -m benchmarks.training --out benchmarks/results

prints the tables and writes training.json and training.svg. README.md says what they mean.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command import about, add_shapes, console, exit_with, parser_for, positive, prepare
from benchmarks.report import Case, Row, Shape, best_peer, cpu_title, plot, shape_name, table, write_json
from benchmarks.training_memory import in_a_process
from benchmarks.training_profile import profile_runner
from benchmarks.training_step import (
    COMPILED,
    ENGINES,
    PATCHED,
    PRECISIONS,
    StepRunner,
    base_classifier,
    check_patched,
    step_flops,
)
from squeezebert_fast import SqueezeBertConfig
from squeezebert_fast.benchmark import TURN, CandidateFailed, Peaks, Timing, Turns, check_plot, milliseconds

SHAPES = ((8, 128),)

PROFILED_STEPS = 10


def case_name(shape: Shape, precision: str) -> str:
    return f"{shape_name(shape)} {precision}" + (" autocast" if precision == "bfloat16" else "")


def rows_of(
    precision: str, shape: Shape, timings: Sequence[Timing], config: SqueezeBertConfig, peak: float | None
) -> list[Row]:
    """A row for each engine in one precision, held against the first: eager, unless that failed."""
    peers = [(precision, timing) for timing in timings if timing.name != PATCHED]
    return [
        Row(
            case=case_name(shape, precision),
            timing=timing,
            baseline=timings[0],
            best_peer=best_peer(precision, peers),
            flops=step_flops(config, shape),
            peak=peak,
            precision=precision,
        )
        for timing in timings
    ]


def memory_rows(
    engines: Sequence[str], precision: str, shape: Shape, layers: int, left_out: dict[str, str]
) -> list[dict[str, Any]]:
    """What a step of each engine takes, eager first. left_out: is told of those that fail, and why."""
    rows: list[dict[str, Any]] = []
    for engine in engines:
        try:
            taken = in_a_process(engine, precision, shape, layers)
        except CandidateFailed as failure:
            left_out[f"{engine}, memory"] = str(failure)
            continue
        step = taken["peak_bytes"] - taken["before_bytes"]
        kept = taken["before_bytes"] - taken["loaded_bytes"] - taken["gradients_bytes"]
        row = {"case": case_name(shape, precision), "candidate": engine, "precision": precision, **taken}
        row |= {"step_bytes": step, "kept_bytes": kept}
        eager = (rows or [row])[0]
        row["of_eager"] = step / eager["step_bytes"]
        row["with_kept_of_eager"] = (step + kept) / (eager["step_bytes"] + eager["kept_bytes"])
        rows.append(row)
    return rows


def memory_table(rows: Sequence[dict[str, Any]]) -> Table:
    result = Table("candidate", title=f"{rows[0]['case']}, memory", title_justify="left")
    for column in ("MB before", "of it kept", "MB at the peak", "MB for the step", "of eager's", "with kept"):
        result.add_column(column, justify="right")
    for row in rows:
        sizes = [row[f"{name}_bytes"] / 1e6 for name in ("before", "kept", "peak", "step")]
        shares = [f"{row[name]:.0%}" for name in ("of_eager", "with_kept_of_eager")]
        result.add_row(row["candidate"], *(f"{size:.0f}" for size in sizes), *shares)
    return result


def profile_table(rows: Sequence[dict[str, Any]]) -> Table:
    result = Table("operation", title=f"{rows[0]['case']}, {PATCHED}", title_justify="left")
    for column in ("forward", "of own peak", "backward", "of own peak", "of the step"):
        result.add_column(column, justify="right")
    for row in rows:
        cells = []
        for direction in ("forward", "backward"):
            spent, fraction = row.get(f"{direction}_ms"), row.get(f"{direction}_fraction_of_peak")
            cells += [
                "" if spent is None else milliseconds(spent / 1e3),
                "" if fraction is None else f"{fraction:.0%}",
            ]
        name = row["operation"] + (f": {milliseconds(row['both_ms'] / 1e3)}" if "both_ms" in row else "")
        result.add_row(name, *cells, f"{row['of_step']:.0%}")
    return result


def measure_case(
    chosen: argparse.Namespace, shape: Shape, precision: str, shown: Console
) -> tuple[Case, list[dict[str, Any]]]:
    """What is timed in one precision, and the rows of the profile of the patched model's step."""
    config, name = SqueezeBertConfig(num_hidden_layers=chosen.layers), case_name(shape, precision)
    engines = [engine for engine in ENGINES if not (engine == COMPILED and chosen.no_compile)]
    profile: list[dict[str, Any]] = []
    with Turns(torch.get_num_threads(), shown) as turns:
        for engine in turns.starting(engines, name):
            turns.start(engine, partial(StepRunner, engine, precision, shape, chosen.layers))
        peaks = Peaks(turns, [precision])
        timings = turns.measure(engines, [TURN] * chosen.repeats, between=peaks.sample)
        limits = peaks.flops_per_second()
        with contextlib.suppress(CandidateFailed):
            profile = turns.ask(PATCHED, profile_runner, config, PROFILED_STEPS)
        left_out = dict(turns.failed)
    case = Case(name, rows_of(precision, shape, timings, config, limits[precision]), left_out)
    return case, [{"case": name, **row} for row in profile]


def main() -> None:
    parser = parser_for("training", __doc__, repeats=5)
    add_shapes(parser, SHAPES)
    parser.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=PRECISIONS, metavar="NAME")
    parser.add_argument(
        "--layers",
        type=positive,
        default=SqueezeBertConfig().num_hidden_layers,
        help="of the model; %(default)s by default",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    chosen = parser.parse_args()
    prepare(chosen)
    picture = chosen.out / "training.svg"
    check_plot(picture)
    where, shown = about("training", chosen.repeats), console()
    for precision in chosen.precisions:
        check_patched(precision, base_classifier(chosen.layers))
    rows: list[Row] = []
    memory: list[dict[str, Any]] = []
    profiles: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for shape, precision in product(chosen.shapes, chosen.precisions):
        case, profile = measure_case(chosen, shape, precision, shown)
        if case.rows:
            shown.print(table(case.rows))
            rows += case.rows
        measured = [row.timing.name for row in case.rows]
        taken = memory_rows(measured, precision, shape, chosen.layers, case.left_out)
        if taken:
            shown.print(memory_table(taken))
            memory += taken
        if profile:
            shown.print(profile_table(profile))
            profiles += profile
        content = {"rows": [row.to_dict() for row in rows], "memory": memory, "profile": profiles}
        left_out += case.left_out_dicts()
        content["left_out"] = left_out
        write_json(picture.with_suffix(".json"), {**where, "layers": chosen.layers, **content})
    if rows:
        plot(picture, f"Training step, {chosen.layers} layers\n{cpu_title()}", rows)
        shown.print(f"wrote {picture.with_suffix('.json')} and .svg")


if __name__ == "__main__":
    exit_with(main)
