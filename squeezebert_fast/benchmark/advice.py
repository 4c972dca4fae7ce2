"""Which of what was measured a user should take, in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark.forwards import UNPATCHED, Candidate
from squeezebert_fast.benchmark.report import Case

WORTHWHILE = 1.05
"""How many times as fast as a more exact way a less exact one must be to be advised: below it is noise."""


@dataclass(frozen=True)
class Way:
    """A way to run the model, and how many times as fast as the first candidate it was, in each case."""

    candidate: Candidate
    speed_ups: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The geometric mean."""
        return math.exp(sum(map(math.log, self.speed_ups)) / len(self.speed_ups))

    @property
    def range(self) -> str:
        """Such as `2.1 to 3.9 times`."""
        least, most = f"{min(self.speed_ups):.1f}", f"{max(self.speed_ups):.1f}"
        return f"{least} times" if least == most else f"{least} to {most} times"

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **self.candidate._asdict(),
            "call": self.candidate.call,
            "least_speed_up": min(self.speed_ups),
            "mean_speed_up": self.mean,
            "most_speed_up": max(self.speed_ups),
        }


def ways(cases: Sequence[Case], candidates: Mapping[str, Candidate]) -> list[Way]:
    """Of each precision the fastest way, those that were measured in every case: the most exact first.

    In a case without padding nothing tells `unpad` from its counterpart, which then stands for both.
    """
    found: dict[str, Way] = {}
    for candidate in candidates.values():
        plain = candidate._replace(unpad=False).label
        speed_ups = []
        for case in cases:
            timings = {timing.name: timing for timing in case.timings}
            timing = timings.get(candidate.label) or timings.get(plain)
            speed_ups += [] if timing is None else [case.speed_up(timing)]
        if candidate.backend in UNPATCHED or len(speed_ups) < len(cases) or not cases:
            continue
        way = Way(candidate, tuple(speed_ups))
        known = found.get(candidate.precision)
        if known is None or way.mean > known.mean * (WORTHWHILE if candidate.unpad else 1):
            found[candidate.precision] = way
    return sorted(found.values(), key=lambda way: PRECISIONS.index(way.candidate.precision))


def best(found: Sequence[Way]) -> Way | None:
    """The fastest, of `ways`; a more exact one where that is as fast. None where none is faster than the first."""
    chosen: Way | None = None
    beaten = 1.0  # what a less exact way is held against, whether or not that was enough to be chosen
    for way in found:
        if way.mean > WORTHWHILE * beaten:
            chosen = way
        if way is chosen or way is found[0]:
            beaten = max(beaten, way.mean)
    return chosen


def advice(found: Sequence[Way], base: str) -> str:
    """What to do, in one line. base: the candidate that the others were held against."""
    if not found:
        return "nothing to choose from: no backend with kernels was timed at every shape"
    chosen = best(found)
    if chosen is None:
        return f"nothing here is faster than {base}"
    said = f"best on this machine: {chosen.candidate.call}, {chosen.range} as fast as {base}"
    precision, exact = chosen.candidate.precision, found[0]
    if precision == "float32":
        return said
    said += f" (`evaluate --precision float32,{precision}` tells what {precision} costs in accuracy)"
    if exact.candidate.precision == "float32":
        said += f"; in float32: {exact.candidate.call}, {exact.range}"
    return said
