"""The base model in every engine, and BERT-base in the peers', all interleaved shape by shape."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.peers import BERT_ENGINES, EAGER, Engine, build, forget_compiled, run
from benchmarks.report import Row, Shape, shape_name
from benchmarks.subjects import Subject, bert_base, random_inputs, squeezebert_base
from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark import MultiplyAddPeaks, Timing, encoder_flops, measure

SHAPES: tuple[Shape, ...] = ((1, 1), (1, 16), (1, 32), (1, 128), (8, 128), (1, 512))


def measure_models(
    engines: Sequence[Engine],
    shapes: Sequence[Shape],
    repeats: int,
    folder: Path,
    *,
    with_bert: bool = True,
    log: Callable[[str], None] = print,
) -> Iterator[list[Row]]:
    """For each shape, a row for each engine: SqueezeBERT in all, then BERT-base in those of BERT_ENGINES.

    engines: transformers eager is always among what is measured, as the baseline.
    folder: for exported models. log: called with a line for each step.
    """
    plan = [(squeezebert_base(folder), [EAGER, *(engine for engine in engines if engine != EAGER)])]
    if with_bert:
        wanted = [engine for engine in BERT_ENGINES if engine == EAGER or engine in engines]
        plan.append((bert_base(folder), wanted))
    for shape in shapes:
        yield _measure_shape(plan, shape, repeats, log)
        gc.collect()  # the engines of this shape hold 200 MB each


def _measure_shape(
    plan: Sequence[tuple[Subject, Sequence[Engine]]], shape: Shape, repeats: int, log: Callable[[str], None]
) -> list[Row]:
    forget_compiled()
    candidates: dict[str, Callable[[], object]] = {}
    about: dict[str, tuple[Subject, Engine]] = {}
    for number, (subject, engines) in enumerate(plan):
        log(
            f"{shape_name(shape)}: building {subject.name} for {', '.join(engine.name for engine in engines)}"
        )
        forwards, skipped = build(subject, engines, shape)
        for name, reason in skipped.items():
            log(f"{shape_name(shape)}: {subject.name} without {name}: {reason}")
        inputs = random_inputs(subject, shape)
        for engine, forward in forwards.items():
            label = engine.name if number == 0 else f"{subject.name}, {engine.name}"
            candidates[label] = partial(run, forward, inputs)
            about[label] = subject, engine
    log(f"{shape_name(shape)}: {repeats} rounds of {len(candidates)} candidates")
    peaks = MultiplyAddPeaks(dict.fromkeys(engine.precision for _, engine in about.values()))
    timings = measure(candidates, repeats, between=peaks.sample)
    peers = {
        label: engine.precision for label, (s, engine) in about.items() if s is plan[0][0] and engine.peer
    }

    def row(timing: Timing) -> Row:
        subject, engine = about[timing.name]
        # A peer that rounds more than this candidate does is none to hold it against.
        allowed = PRECISIONS[: PRECISIONS.index(engine.precision) + 1]
        rivals = (t for t in timings if peers.get(t.name) in allowed)
        return Row(
            case=shape_name(shape),
            timing=timing,
            baseline=timings[0],
            best_peer=min(rivals, key=lambda t: t.median),
            flops=encoder_flops(subject.config, *shape),
            peak=peaks[engine.precision],
            precision=engine.precision,
        )

    return [row(timing) for timing in timings]
