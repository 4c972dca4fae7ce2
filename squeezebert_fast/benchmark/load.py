"""How busy the machine is with others' work: what makes a measurement worthless, as far as the system tells."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

STAT = Path("/proc/stat")

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # steal: another virtual machine had the CPU
_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


class Usage(NamedTuple):
    """CPU seconds up to some moment."""

    busy: float
    """Of the CPUs that this process may use, by whomever."""
    own: float
    """Of this process and its candidates."""
    total: float
    """That there were, busy or not."""


@dataclass(frozen=True)
class Load:
    """The load around a measurement; None for what this system doesn't tell.

    average_before, average_during: processes that ran or wanted to, over the last minute, when the command began and
    when it ended: the candidates' threads are among the latter. others_before, others_during: the share of the CPUs'
    time that other processes, and other virtual machines, took while the candidates started, and while they ran.
    """

    average_before: float | None = None
    average_during: float | None = None
    others_before: float | None = None
    others_during: float | None = None

    def __str__(self) -> str:
        average = _before_and_during(self.average_before, self.average_during, ".2f")
        others = _before_and_during(self.others_before, self.others_during, ".0%")
        lines = (("load average", average), ("share of the CPUs' time that others took", others))
        return "\n".join(f"{what}: {figures}" for what, figures in lines if figures)


def _before_and_during(before: float | None, during: float | None, form: str) -> str:
    told = ((before, "before"), (during, "during"))
    return ", ".join(f"{value:{form}} {when}" for value, when in told if value is not None)


def load_average() -> float | None:
    """Processes that ran or wanted to, over the last minute; None where there is no such figure, as on Windows."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def usage(workers: Iterable[int] = ()) -> Usage | None:
    """CPU seconds until now, or None without /proc. workers: child processes, whose seconds count as ours."""
    try:
        tick = 1.0 / os.sysconf("SC_CLK_TCK")
        usable = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        rows = [line.split() for line in STAT.read_text(encoding="ascii").splitlines()]
    except (AttributeError, OSError, ValueError):
        return None
    busy = total = 0.0
    for name, *ticks in rows:
        if name in usable:
            fields = dict(zip(_FIELDS, map(int, ticks), strict=False))
            busy += tick * sum(fields.get(field, 0) for field in _BUSY)
            total += tick * sum(fields.values())
    own = sum(os.times()[:4]) + sum(
        _seconds_of(pid, tick) for pid in workers
    )  # [:4]: with children that ended
    return Usage(busy, own, total)


def _seconds_of(pid: int, tick: float) -> float:
    """CPU seconds of a process; 0 of one that has ended: its parent's own figure has them."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return tick * (int(fields[11]) + int(fields[12]))  # utime and stime, of all threads


def others_share(start: Usage | None, end: Usage | None) -> float | None:
    """The share of the CPUs' time that went to others in between, or None if that can't be told."""
    if start is None or end is None or end.total <= start.total:
        return None
    taken = (end.busy - start.busy) - (end.own - start.own)
    return min(1.0, max(0.0, taken / (end.total - start.total)))
