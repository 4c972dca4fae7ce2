"""What the machine could do meanwhile: multiply-adds, sampled between the rounds of candidates that take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch

from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark.turns import Turns
from squeezebert_fast.benchmark.workers import CandidateFailed

NAME = "multiply-add peak"
PEAK_SAMPLE_SECONDS = 0.02


class MultiplyAddPeak:
    """The limit of `threads` threads for multiply-adds in registers, sampled between measurements.

    threads: by default `torch.get_num_threads()`. precision: what is multiplied: float32, bfloat16 or int8.

    Without the native module there is nothing to measure it with: `flops_per_second` is None.
    """

    def __init__(self, threads: int | None = None, precision: str = "float32") -> None:
        self.precision = precision
        self.threads = torch.get_num_threads() if threads is None else threads
        self.samples: list[float] = []

    def sample(self) -> None:
        """Measure once, for about 20 ms."""
        if cpu._native is not None:
            self.samples.append(cpu.multiply_add_rate(self.precision, self.threads, PEAK_SAMPLE_SECONDS))

    @property
    def flops_per_second(self) -> float | None:
        """The upper quartile of the samples: a limit is what is reached when nobody else is in the way."""
        return float(np.percentile(self.samples, 75)) if self.samples else None


class MultiplyAddPeaks:
    """Several precisions' MultiplyAddPeak, sampled together; `peaks["int8"]` is its flops per second, or None."""

    def __init__(self, precisions: Iterable[str], threads: int | None = None) -> None:
        self.by_precision = {precision: MultiplyAddPeak(threads, precision) for precision in precisions}

    def sample(self) -> None:
        """Measure each once."""
        for peak in self.by_precision.values():
            peak.sample()

    def __getitem__(self, precision: str) -> float | None:
        return self.by_precision[precision].flops_per_second


class Peaks:
    """`MultiplyAddPeaks` in a process of its own: nobody's threads are in its way, nor its threads in anybody's."""

    def __init__(self, turns: Turns, precisions: Iterable[str]) -> None:
        self._turns, self._precisions = turns, list(dict.fromkeys(precisions))
        turns.start(NAME, partial(MultiplyAddPeaks, self._precisions))

    def sample(self) -> None:
        """Measure each once. Without it there are only no fractions of the peak."""
        with contextlib.suppress(CandidateFailed):
            self._turns.ask(NAME, MultiplyAddPeaks.sample)

    def flops_per_second(self) -> dict[str, float | None]:
        """By precision; None for what was not measured."""
        found: dict[str, float | None] = dict.fromkeys(self._precisions)
        with contextlib.suppress(CandidateFailed):
            for precision in found:
                found[precision] = self._turns.ask(NAME, MultiplyAddPeaks.__getitem__, precision)
        return found
