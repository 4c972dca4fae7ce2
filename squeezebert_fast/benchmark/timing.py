"""Seconds of candidates that take turns, and how they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from squeezebert_fast.errors import ArgumentError


@dataclass(frozen=True)
class Timing:
    """One candidate's wall-clock seconds, one entry a round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds that half of the runs took at most."""
        return self.percentile(50)

    def percentile(self, percent: float) -> float:
        """Seconds that `percent` of 100 runs took at most."""
        return float(np.percentile(self.seconds, percent))

    @property
    def spread(self) -> float:
        """The ratio of `percentile(80)` to `percentile(20)`."""
        return self.percentile(80) / self.percentile(20)


def milliseconds(*seconds: float) -> str:
    """Three significant digits, whole numbers with commas, never exponents; of a range, one unit.

    >>> milliseconds(1.288), milliseconds(0.000532), milliseconds(0.0371, 0.0402)
    ('1,288 ms', '0.532 ms', '37.1 .. 40.2 ms')
    """
    return f"{' .. '.join(map(_three_digits, (1e3 * each for each in seconds)))} ms"


def _three_digits(number: float) -> str:
    if not number or not math.isfinite(number):
        return f"{number:g}"
    exponent = int(f"{number:.2e}".partition("e")[2])  # of the rounded number: 9.996 is 10.0
    return f"{number:,.{max(0, 2 - exponent)}f}"


def measure(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int = 20,
    *,
    warmup: int = 2,
    between: Callable[[], object] | None = None,
) -> list[Timing]:
    """Time every candidate `repeats` times, one after the other in each round.

    candidates: functions by name; each must have finished its work when it returns.
    warmup: untimed calls of each beforehand, for what is only slow once (packing weights, starting threads).
    between: called, untimed, after each round, such as `MultiplyAddPeak().sample`.
    Raises ArgumentError for `repeats` below 1, `warmup` below 0 or no candidates.

    >>> measure({"a": lambda: sum(range(10)), "b": lambda: sum(range(1000))}, repeats=3)  # doctest: +SKIP
    """
    if repeats < 1 or warmup < 0 or not candidates:
        raise ArgumentError(
            f"repeats is {repeats}, warmup {warmup}, with {len(candidates)} candidates; "
            "expected at least 1, 0 and 1"
        )
    for run in candidates.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        if between is not None:
            between()
    return [Timing(name, tuple(values)) for name, values in seconds.items()]
