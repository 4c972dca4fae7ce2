"""The base model in every engine, and BERT-base in the peers', all taking turns shape by shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.peaks import Peaks
from benchmarks.peers import BERT_ENGINES, EAGER, Engine, start_engines
from benchmarks.report import Case, Row, Shape, best_peer, shape_name
from benchmarks.subjects import Subject, bert_base, squeezebert_base
from benchmarks.turns import TURN, Turns
from squeezebert_fast.benchmark import encoder_flops

SHAPES: tuple[Shape, ...] = ((1, 1), (1, 16), (1, 32), (1, 128), (8, 128), (1, 512))


def measure_models(
    engines: Sequence[Engine],
    shapes: Sequence[Shape],
    repeats: int,
    folder: Path,
    console: Console,
    *,
    with_bert: bool = True,
) -> Iterator[Case]:
    """For each shape, a row for each engine: SqueezeBERT in all, then BERT-base in those of BERT_ENGINES.

    engines: transformers eager is always among what is measured, as the baseline.
    folder: for exported models.
    """
    plan = [(squeezebert_base(folder), [EAGER, *(engine for engine in engines if engine != EAGER)])]
    if with_bert:
        wanted = [engine for engine in BERT_ENGINES if engine == EAGER or engine in engines]
        plan.append((bert_base(folder), wanted))
    for shape in shapes:
        yield _measure_shape(plan, shape, repeats, console)


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
