"""Measure a training step, forward and backward: its time, its memory, and where ours spends it.

    python -m benchmarks.training --out benchmarks/results

prints the tables and writes training.json and training.svg. README.md says what they mean.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.command import about, add_shapes, console, exit_with, parser_for, positive, prepare
from benchmarks.peers import EngineUnavailable, forget_compiled
from benchmarks.report import Row, Shape, cpu_model, plot, shape_name, table, write_json
from benchmarks.training_memory import in_a_process
from benchmarks.training_profile import profile_case
from benchmarks.training_step import (
    COMPILED,
    EAGER,
    ENGINES,
    PATCHED,
    PRECISIONS,
    Batch,
    Candidate,
    base_classifier,
    candidate,
    check_patched,
    random_batch,
    step_flops,
    warm_up,
)
from squeezebert_fast import SqueezeBertConfig
from squeezebert_fast.benchmark import MultiplyAddPeaks, Timing, check_plot, measure

SHAPES = ((8, 128),)


def case_name(shape: Shape, precision: str) -> str:
    return f"{shape_name(shape)} {precision}" + (" autocast" if precision == "bfloat16" else "")


def build(
    engines: Sequence[str],
    precisions: Sequence[str],
    base: nn.Module,
    batch: Batch,
    log: Callable[[str], None],
) -> list[Candidate]:
    """Each engine in each precision, warm; one that can't run here is left out, and `log` told why."""
    forget_compiled()
    ready = []
    for precision in precisions:
        check_patched(precision, base)
        for engine in engines:
            built = candidate(engine, precision, base)
            try:
                warm_up(built, batch)
                warm_up(built, batch)
            except EngineUnavailable as reason:
                log(f"without {built.name}: {reason}")
            else:
                ready.append(built)
    return ready


def measure_steps(
    candidates: Sequence[Candidate], batch: Batch, config: SqueezeBertConfig, repeats: int
) -> list[list[Row]]:
    """For each precision, a row for each engine; all of them are interleaved. Eager must be among the engines."""
    shape: Shape = (batch.input_ids.shape[0], batch.input_ids.shape[1])
    peaks = MultiplyAddPeaks(dict.fromkeys(each.precision for each in candidates))

    def between() -> None:
        peaks.sample()
        for each in candidates:
            each.prepare()

    steps = {each.name: partial(each.step, batch) for each in candidates}
    timings = measure(steps, repeats, warmup=0, between=between)
    cases = []
    for precision in peaks.by_precision:
        by_engine = {
            each.engine: Timing(each.engine, timing.seconds)
            for each, timing in zip(candidates, timings, strict=True)
            if each.precision == precision
        }
        peers = [timing for engine, timing in by_engine.items() if engine != PATCHED]
        cases.append(
            [
                Row(
                    case=case_name(shape, precision),
                    timing=timing,
                    baseline=by_engine[EAGER],
                    best_peer=min(peers, key=lambda peer: peer.median),
                    flops=step_flops(config, shape),
                    peak=peaks[precision],
                    precision=precision,
                )
                for timing in by_engine.values()
            ]
        )
    return cases


def memory_rows(engines: Sequence[str], precision: str, shape: Shape, layers: int) -> list[dict[str, Any]]:
    """What a step of each engine takes, eager first."""
    rows: list[dict[str, Any]] = []
    for engine in engines:
        taken = in_a_process(engine, precision, shape, layers)
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
    for column in ("forward ms", "of own peak", "backward ms", "of own peak", "of the step"):
        result.add_column(column, justify="right")
    for row in rows:
        cells = []
        for direction in ("forward", "backward"):
            spent, fraction = row.get(f"{direction}_ms"), row.get(f"{direction}_fraction_of_peak")
            cells += ["" if spent is None else f"{spent:.1f}", "" if fraction is None else f"{fraction:.0%}"]
        name = row["operation"] + (f": {row['both_ms']:.1f} ms" if "both_ms" in row else "")
        result.add_row(name, *cells, f"{row['of_step']:.0%}")
    return result


def measure_shape(
    chosen: argparse.Namespace, shape: Shape, base: nn.Module, shown: Console
) -> tuple[list[Row], list[dict[str, Any]], list[tuple[str, str]]]:
    """Rows of the timing and of the profile, and the engine and precision of all that ran."""
    batch, config = random_batch(shape), SqueezeBertConfig(num_hidden_layers=chosen.layers)
    engines = [engine for engine in ENGINES if not (engine == COMPILED and chosen.no_compile)]
    rows: list[Row] = []
    profiles: list[dict[str, Any]] = []
    ran: list[tuple[str, str]] = []
    # One precision after the other, as a training run has one: beside the other's tensors the allocator gives memory
    # back and asks for it again, which slows eager down by a third.
    for precision in chosen.precisions:
        candidates = build(engines, [precision], base, batch, shown.print)
        for case in measure_steps(candidates, batch, config, chosen.repeats):
            shown.print(table(case))
            rows += case
        for each in candidates:
            ran.append((each.engine, precision))
            if each.engine == PATCHED:
                name = case_name(shape, precision)
                operations = [
                    {"case": name, **row} for row in profile_case(each, batch, config, chosen.repeats)
                ]
                shown.print(profile_table(operations))
                profiles += operations
    return rows, profiles, ran


def main() -> None:
    parser = parser_for("training", __doc__, repeats=15)
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
    where, shown, base = about("training", chosen.repeats), console(), base_classifier(chosen.layers)
    rows: list[Row] = []
    memory: list[dict[str, Any]] = []
    profiles: list[dict[str, Any]] = []
    for shape in chosen.shapes:
        measured, profiled, ran = measure_shape(chosen, shape, base, shown)
        rows += measured
        profiles += profiled
        gc.collect()  # the candidates, 400 MB each: other processes need the memory now
        for precision in chosen.precisions:
            taken = memory_rows([e for e, p in ran if p == precision], precision, shape, chosen.layers)
            shown.print(memory_table(taken))
            memory += taken
        content = {"rows": [row.to_dict() for row in rows], "memory": memory, "profile": profiles}
        write_json(picture.with_suffix(".json"), {**where, "layers": chosen.layers, **content})
    plot(picture, f"Training step, {chosen.layers} layers\n{cpu_model()}", rows)
    shown.print(f"wrote {picture.with_suffix('.json')} and .svg")


if __name__ == "__main__":
    exit_with(main)
