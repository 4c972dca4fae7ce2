"""What was measured, as a table to read, JSON to keep and a plot to show."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark import Case as PlottedCase
from squeezebert_fast.benchmark import Report, Timing, milliseconds
from squeezebert_fast.diagnostics import doctor

FEATURES = (
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512f", "avx_vnni", "avx2", "fma"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""Names in /proc/cpuinfo, of x86 and of ARM."""

BFLOAT16_FEATURES = {"amx_bf16", "avx512_bf16", "bf16"}
"""Each of which multiplies bfloat16."""

PACKAGES = (
    *("torch", "transformers", "sentence-transformers", "numpy"),
    *("onnx", "onnxruntime", "openvino", "nncf"),
)


Shape = tuple[int, int]
"""Batch and tokens."""


def shape_name(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


@dataclass(frozen=True)
class Row:
    """One candidate of one case, beside those that it was interleaved with."""

    case: str
    timing: Timing
    baseline: Timing
    """What the case's speed-ups are over."""
    best_peer: Timing | None
    """The fastest of those that `best_peer` lets in, or None."""
    flops: int
    peak: float | None
    """Operations a second that this candidate's instruction set could do meanwhile in its precision, or None: not
    measured."""
    precision: str = "float32"

    @property
    def speed_up(self) -> float:
        return self.baseline.median / self.timing.median

    @property
    def over_best_peer(self) -> float | None:
        return None if self.best_peer is None else self.best_peer.median / self.timing.median

    @property
    def fraction_of_peak(self) -> float | None:
        return None if self.peak is None else self.flops / self.timing.median / self.peak

    def to_dict(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "candidate": self.timing.name,
            "precision": self.precision,
            "median_ms": 1e3 * self.timing.median,
            "p20_ms": 1e3 * self.timing.percentile(20),
            "p80_ms": 1e3 * self.timing.percentile(80),
            "baseline": self.baseline.name,
            "speed_up": self.speed_up,
            "best_peer": None if self.best_peer is None else self.best_peer.name,
            "speed_up_over_best_peer": self.over_best_peer,
            "flops": self.flops,
            "peak_flops_per_second": self.peak,
            "fraction_of_peak": self.fraction_of_peak,
            "ms": [1e3 * seconds for seconds in self.timing.seconds],
        }


@dataclass(frozen=True)
class Case:
    """The candidates that took turns, and why others didn't."""

    name: str
    rows: list[Row]
    left_out: dict[str, str]
    """By name, the reason."""

    def left_out_dicts(self) -> list[dict[str, str]]:
        """Those left out as they are written beside `Row.to_dict`."""
        return [
            {"case": self.name, "candidate": name, "reason": reason} for name, reason in self.left_out.items()
        ]


def best_peer(precision: str, peers: Iterable[tuple[str, Timing]]) -> Timing | None:
    """What a candidate in `precision` is held against: of the peers, each with its precision, the fastest that may.

    A peer of the same precision; where there is none, one that rounds less. But int8 must beat them all.
    """
    known = list(peers)
    allowed = [timing for other, timing in known if precision in ("int8", other)]
    finer = PRECISIONS[: PRECISIONS.index(precision)]
    allowed = allowed or [timing for other, timing in known if other in finer]
    return min(allowed, key=lambda timing: timing.median, default=None)


def rows_of(dicts: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows whose `to_dict` this was."""
    timings = {
        (each["case"], each["candidate"]): Timing(each["candidate"], tuple(ms / 1e3 for ms in each["ms"]))
        for each in dicts
    }
    return [
        Row(
            each["case"],
            timings[each["case"], each["candidate"]],
            timings[each["case"], each["baseline"]],
            None if each["best_peer"] is None else timings[each["case"], each["best_peer"]],
            each["flops"],
            each["peak_flops_per_second"],
            each["precision"],
        )
        for each in dicts
    ]


def table(rows: Sequence[Row]) -> Table:
    """The rows of one case as a rich table."""
    baseline = rows[0].baseline.name
    result = Table(Column("candidate", no_wrap=True), title=rows[0].case, title_justify="left")
    for column in ("median", "p20 .. p80", f"over {baseline}", "over best peer", "of own peak"):
        result.add_column(column, justify="right")
    for row in rows:
        timing, over, fraction = row.timing, row.over_best_peer, row.fraction_of_peak
        result.add_row(
            timing.name,
            milliseconds(timing.median),
            milliseconds(timing.percentile(20), timing.percentile(80)),
            f"{row.speed_up:.2f}",
            "" if over is None else f"{over:.2f}",
            "" if fraction is None else f"{fraction:.0%}",
        )
    return result


def plot(path: Path, title: str, rows: Iterable[Row]) -> None:
    """Draw the speed-ups, a panel for each case; `path` as in `squeezebert_fast.benchmark.Report.plot`."""
    cases = []
    for name, group in groupby(rows, key=lambda row: row.case):
        kept = list(group)
        peaks = {row.timing.name: row.peak for row in kept}
        cases.append(PlottedCase(name, tuple(row.timing for row in kept), kept[0].flops, kept[0].peak, peaks))
    Report(title, tuple(cases)).plot(path)


def surroundings(command: str, repeats: int | None) -> dict[str, Any]:
    """Where, when and how: what a number needs to be understood later."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_clean": _git("status", "--porcelain", "--untracked-files=no") == "",
        "cpu": cpu_model(),
        "cpu_features": cpu_features(),
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0],
        "repeats": repeats,
        "versions": {package: _version(package) for package in PACKAGES},
        "machine": {
            # a runtime by its file name: where it is installed is nobody's business
            name: {key: re.sub(r"\S*/", "", value) for key, value in rows}
            for name, rows in doctor().sections.items()
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` whole or not at all: a run may be interrupted."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def cpu_model() -> str:
    """The processor's name as Linux tells it."""
    return _cpuinfo("model name") or platform.machine()


def cpu_features() -> list[str]:
    """Of what the processor has, as Linux names it, that on which the speed of products depends."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    return [name for name in FEATURES if name in flags]


def cpu_title() -> str:
    """The processor for a title: servers' names don't tell whether they have matrix units."""
    has = "with" if "amx_tile" in cpu_features() else "without"
    return f"{cpu_model()}, {has} AMX" if platform.machine() == "x86_64" else cpu_model()


def _cpuinfo(field: str) -> str | None:
    """What /proc/cpuinfo says of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in values if name.strip() == field), None)


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # a machine without git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
