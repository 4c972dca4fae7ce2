"""What the machine could do meanwhile, sampled between the rounds of candidates that take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial

from benchmarks.turns import CandidateFailed, Turns
from squeezebert_fast.benchmark import MultiplyAddPeaks

NAME = "multiply-add peak"


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
