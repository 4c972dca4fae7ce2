"""The base model in every engine, and BERT-base in the peers', all interleaved shape by shape."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers import EAGER, PEERS, Forward, Subject, bert_base, build, random_inputs, squeezebert_base
from benchmarks.report import Row
from squeezebert_fast.benchmark import MultiplyAddPeak, encoder_flops, measure

Shape = tuple[int, int]
SHAPES: tuple[Shape, ...] = ((1, 32), (1, 128), (8, 128), (1, 512))
"""Batch and tokens."""


def shape_name(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


def measure_models(
    engines: Sequence[str],
    shapes: Sequence[Shape],
    repeats: int,
    folder: Path,
    *,
    with_bert: bool = True,
    log: Callable[[str], None] = print,
) -> Iterator[list[Row]]:
    """For each shape, a row for each engine: SqueezeBERT in all, then BERT-base in those that are peers.

    engines: keys of `peers.ENGINES`; transformers eager is always among what is measured, as the baseline.
    folder: for exported models. log: called with a line for each step.
    """
    peers = [EAGER, *(name for name in engines if name in PEERS and name != EAGER)]
    ours = [name for name in engines if name not in PEERS]
    plan = [(squeezebert_base(folder), [*peers, *ours])]
    if with_bert:
        plan.append((bert_base(folder), peers))
    for shape in shapes:
        yield _measure_shape(plan, shape, repeats, log)
        gc.collect()  # the engines of this shape hold 200 MB each


def _measure_shape(
    plan: Sequence[tuple[Subject, Sequence[str]]], shape: Shape, repeats: int, log: Callable[[str], None]
) -> list[Row]:
    candidates: dict[str, Callable[[], object]] = {}
    flops: dict[str, int] = {}
    for number, (subject, engines) in enumerate(plan):
        log(f"{shape_name(shape)}: building {subject.name} for {', '.join(engines)}")
        forwards, skipped = build(subject, engines, *shape)
        for name, reason in skipped.items():
            log(f"{shape_name(shape)}: {subject.name} without {name}: {reason}")
        inputs = random_inputs(subject, *shape)
        for name, forward in forwards.items():
            label = name if number == 0 else f"{subject.name}, {name}"
            candidates[label] = partial(_run, forward, inputs)
            flops[label] = encoder_flops(subject.config, *shape)
    log(f"{shape_name(shape)}: {repeats} rounds of {len(candidates)} candidates")
    peak = MultiplyAddPeak()
    timings = measure(candidates, repeats, between=peak.sample)
    best_peer = min((t for t in timings if t.name in PEERS), key=lambda t: t.median)
    return [
        Row(shape_name(shape), t, timings[0], best_peer, flops[t.name], peak.flops_per_second)
        for t in timings
    ]


def _run(forward: Forward, inputs: tuple[Tensor, Tensor]) -> object:
    with torch.inference_mode():
        return forward(*inputs)
