"""The base model in every engine, beside it BERT-base in the fastest peers; and BERT-base in every engine.

All take turns shape by shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.peers import EAGER, Engine, start_engines
from benchmarks.report import Case, Row, Shape, best_peer, shape_name
from benchmarks.subjects import Subject, bert_base, squeezebert_base
from squeezebert_fast.benchmark import TURN, Peaks, Turns, encoder_flops

SHAPES: tuple[Shape, ...] = ((1, 1), (1, 16), (1, 32), (1, 128), (8, 128), (1, 512))


BESIDE = ("ONNX Runtime", "OpenVINO")
"""The engines that BERT-base has beside SqueezeBERT, and eager."""


def measure_models(
    engines: Sequence[Engine],
    shapes: Sequence[Shape],
    repeats: int,
    folder: Path,
    console: Console,
    *,
    with_bert: bool = True,
) -> Iterator[Case]:
    """For each shape, a row for each engine: SqueezeBERT in all, then BERT-base in those of BESIDE.

    engines: transformers eager is always among what is measured, as the baseline.
    folder: for exported models.
    """
    plan = [(squeezebert_base(folder), _with_eager(engines))]
    if with_bert:
        plan.append((bert_base(folder), _with_eager([e for e in engines if e.family in BESIDE])))
    for shape in shapes:
        yield _measure_shape(plan, shape, repeats, console)


def measure_bert(
    engines: Sequence[Engine], shapes: Sequence[Shape], repeats: int, folder: Path, console: Console
) -> Iterator[Case]:
    """For each shape, a row for each engine with BERT-base. As `measure_models` otherwise."""
    plan = [(bert_base(folder), _with_eager(engines))]
    for shape in shapes:
        yield _measure_shape(plan, shape, repeats, console)


def _with_eager(engines: Sequence[Engine]) -> list[Engine]:
    return [EAGER, *(engine for engine in engines if engine != EAGER)]


def _measure_shape(
    plan: Sequence[tuple[Subject, Sequence[Engine]]], shape: Shape, repeats: int, console: Console
) -> Case:
    about: dict[str, tuple[Subject, Engine]] = {}
    case = shape_name(shape)
    with Turns(torch.get_num_threads(), console) as turns:
        for number, (subject, engines) in enumerate(plan):
            prefix = f"{subject.name}, " if number else ""
            ready = start_engines(turns, subject, engines, shape, prefix=prefix)
            about |= {name: (subject, engine) for name, engine in ready.items()}
        console.print(f"{case}: {repeats} rounds of {len(about)} candidates")
        peaks = Peaks(turns, [engine.precision for _, engine in about.values()])
        timings = turns.measure(list(about), [TURN] * repeats, between=peaks.sample)
        limits = peaks.flops_per_second()
        left_out = dict(turns.failed)
    peers = [
        (engine.precision, timing)
        for timing in timings
        for subject, engine in [about[timing.name]]
        if subject is plan[0][0] and engine.peer
    ]
    rows = []
    for timing in timings:
        subject, engine = about[timing.name]
        rows.append(
            Row(
                case=case,
                timing=timing,
                baseline=timings[0],
                best_peer=best_peer(engine.precision, peers),
                flops=encoder_flops(subject.config, *shape),
                peak=limits[engine.precision],
                precision=engine.precision,
            )
        )
    return Case(case, rows, left_out)
