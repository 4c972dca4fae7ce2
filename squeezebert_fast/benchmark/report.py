"""What was measured, as a table, a plot and a file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from squeezebert_fast.benchmark.load import Load
from squeezebert_fast.benchmark.timing import Timing, milliseconds
from squeezebert_fast.diagnostics import doctor
from squeezebert_fast.errors import UnsupportedError, check_among, counted
from squeezebert_fast.storage.files import all_or_nothing

if TYPE_CHECKING:
    from rich.table import Table

PLOT_SUFFIXES = (".png", ".svg")

MOST_SPREAD = 1.5
"""p80 over p20 above which medians of the usual 20 runs say little: a quiet machine has 1.1, a shared one up to 1.4."""

MOST_OTHERS = 0.1
"""The share of the CPUs' time that others may take without being a reason to doubt."""


@dataclass(frozen=True)
class Case:
    """One shape or operation, with the timings of its candidates: the others are held against the first.

    flops: of one run of a candidate, or None where they aren't what limits it.
    peak: flops per second that the machine could do meanwhile (`MultiplyAddPeak`), or None.
    peaks: by name, those of candidates with another one: of their own precision or instruction set.
    """

    name: str
    timings: tuple[Timing, ...]
    flops: int | None = None
    peak: float | None = None
    peaks: Mapping[str, float | None] = field(default_factory=dict)

    def speed_up(self, timing: Timing) -> float:
        """How many times as fast as the first candidate, by medians."""
        return self.timings[0].median / timing.median

    def rate(self, timing: Timing) -> float | None:
        """Floating-point operations per second, or None."""
        return None if self.flops is None else self.flops / timing.median

    def peak_of(self, timing: Timing) -> float | None:
        """What a candidate's `rate` is held against, or None."""
        return self.peaks.get(timing.name, self.peak)

    def fraction_of_peak(self, timing: Timing) -> float | None:
        """`rate` as a fraction of `peak_of`, or None."""
        rate, peak = self.rate(timing), self.peak_of(timing)
        return None if rate is None or peak is None else rate / peak


@dataclass(frozen=True)
class Report:
    """What was measured, where: `table` to read, `write_json` to keep, `plot` to show.

    machine: by default the sections of `doctor()`. load: the machine's meanwhile, where it was watched. left_out: by
    name, why a candidate isn't among the timings.
    """

    title: str
    cases: tuple[Case, ...]
    threads: int = field(default_factory=torch.get_num_threads)
    machine: dict[str, dict[str, str]] = field(
        default_factory=lambda: {name: dict(rows) for name, rows in doctor().sections.items()}
    )
    load: Load | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def doubt(self) -> str | None:
        """Why the figures are worth little, in one line, or None: others had the CPUs, or times spread widely."""
        reasons = []
        others = None if self.load is None else self.load.others_during
        if others is not None and others > MOST_OTHERS:
            reasons.append(f"others took {others:.0%} of the CPUs' time")
        measured = [(timing.spread, case.name, timing.name) for case in self.cases for timing in case.timings]
        spread, case_name, name = max(measured, default=(1.0, "", ""))
        if spread > MOST_SPREAD:
            reasons.append(f"p80 is {spread:.1f} times p20 ({name} at {case_name})")
        return " and ".join(reasons) or None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, with every single run."""
        return {
            "title": self.title,
            "threads": self.threads,
            "machine": self.machine,
            "load": None if self.load is None else asdict(self.load),
            "left_out": dict(self.left_out),
            "cases": [
                {
                    "name": case.name,
                    "flops": case.flops,
                    "peak_flops_per_second": case.peak,
                    "candidates": [
                        {
                            "name": timing.name,
                            "median_seconds": timing.median,
                            "p20_seconds": timing.percentile(20),
                            "p80_seconds": timing.percentile(80),
                            "speed_up": case.speed_up(timing),
                            "flops_per_second": case.rate(timing),
                            "peak_flops_per_second": case.peak_of(timing),
                            "fraction_of_peak": case.fraction_of_peak(timing),
                            "seconds": list(timing.seconds),
                        }
                        for timing in case.timings
                    ],
                }
                for case in self.cases
            ],
        }

    def write_json(self, path: Path) -> None:
        """Write `to_dict`, whole or not at all. Raises CheckpointError if `path` can't be written."""
        with all_or_nothing(path.parent) as stage:
            stage(path.name).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """A rich table, a row for each candidate, those of a case below its name."""
        from rich.box import SIMPLE
        from rich.table import Table

        title = f"{self.title}, {counted(self.threads, 'thread')}"
        caption = str(self.load or "") or None
        table = Table(
            title=title,
            caption=caption,
            caption_justify="left",
            box=SIMPLE,
            collapse_padding=True,
            pad_edge=False,
        )
        table.add_column("candidate", no_wrap=True)
        for column in ("median", "p20 .. p80", "speed-up", "GFLOP/s", "of peak"):
            table.add_column(column, justify="right", no_wrap=True)
        for case in self.cases:
            table.add_row(case.name, style="bold")
            for number, timing in enumerate(case.timings):
                rate, fraction = case.rate(timing), case.fraction_of_peak(timing)
                table.add_row(
                    f"  {timing.name}",
                    milliseconds(timing.median),
                    milliseconds(timing.percentile(20), timing.percentile(80)),
                    f"{case.speed_up(timing):.2f}",
                    "" if rate is None else f"{rate / 1e9:.0f}",
                    "" if fraction is None else f"{fraction:.0%}",
                    end_section=number == len(case.timings) - 1,
                )
        return table

    def plot(self, path: Path) -> None:
        """Draw the speed-ups as bars, whiskers from p20 to p80, to a .png or .svg file, whole or not at all.

        Raises as `check_plot`, and CheckpointError if `path` can't be written.
        """
        check_plot(path)
        from matplotlib.figure import Figure

        names = list(dict.fromkeys(timing.name for case in self.cases for timing in case.timings))
        columns = min(3, len(self.cases))
        rows = -(-len(self.cases) // columns)
        figure = Figure(
            figsize=(1.5 + 3.5 * columns, 1.0 + rows * (0.7 + 0.24 * len(names))), layout="constrained"
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for case, axes in zip_longest(self.cases, grid.flat):
            if case is None:
                axes.set_axis_off()
            else:
                _draw(axes, case, names)
        grid[0, 0].set_ylim(len(names) - 0.5, -0.5)  # the first on top, in all
        figure.suptitle(f"{self.title}, {counted(self.threads, 'thread')}", fontsize=10)
        figure.supxlabel(f"times as fast as {names[0]}", fontsize=9)
        with all_or_nothing(path.parent) as stage:
            figure.savefig(stage(path.name), format=path.suffix[1:].lower(), dpi=150)


def _draw(axes: Any, case: Case, names: list[str]) -> None:
    """One case's bars, a line for each of `names`."""
    base, longest = case.timings[0].median, 0.0
    for timing in case.timings:
        place, speed_up = names.index(timing.name), case.speed_up(timing)
        low, high = base / timing.percentile(80), base / timing.percentile(20)
        axes.barh(place, speed_up, height=0.8, color=f"C{place % 10}")
        whisker = [[max(speed_up - low, 0.0)], [max(high - speed_up, 0.0)]]
        axes.errorbar(speed_up, place, xerr=whisker, fmt="none", color="0.25", capsize=2, linewidth=0.8)
        axes.text(high, place, f"  {_bar_label(case, timing)}", va="center", fontsize=7)
        longest = max(longest, high)
    axes.set_xlim(0.0, 1.7 * longest)  # room for the labels
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(case.name, fontsize=9)


def _bar_label(case: Case, timing: Timing) -> str:
    fraction = case.fraction_of_peak(timing)
    share = "" if fraction is None else f", {fraction:.0%} of peak"
    return f"{milliseconds(timing.median)}{share}"


def check_plot(path: Path) -> None:
    """Tell before anything is measured whether `Report.plot` can draw to `path`.

    Raises ArgumentError for a suffix other than .png or .svg, UnsupportedError without matplotlib.
    """
    check_among(f"the suffix of the plot {path}", path.suffix.lower(), PLOT_SUFFIXES)
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise UnsupportedError(
            f"a plot needs matplotlib ({error}); pip install squeezebert-fast[plot]"
        ) from error
