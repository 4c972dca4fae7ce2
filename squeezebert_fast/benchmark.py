"""Fair comparisons on a noisy machine: candidates interleaved, medians, ratios, and the measured limit.

    round 1:  A B C peak    round 2:  A B C peak    ...

A neighbour's load then falls on all candidates alike, so that a ratio holds where milliseconds don't. `bench`
on the command line and everything under benchmarks/ measure with this module.
"""

from __future__ import annotations

import copy
import importlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from squeezebert_fast.backends import cpu
from squeezebert_fast.diagnostics import doctor
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.loading.transformers_models import library, token_limit
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import Config, Model
from squeezebert_fast.storage.files import all_or_nothing

if TYPE_CHECKING:
    from rich.table import Table

TRANSFORMERS = "transformers"
"""The candidate that is transformers' own model with the same weights: of a SqueezeBERT in eager mode."""

GROUPED = ("q", "k", "v", "post_attention", "intermediate", "output")
"""A layer's products, by the fields of the configuration with their groups; the last two are the wide ones."""

PLOT_SUFFIXES = (".png", ".svg")
PEAK_SAMPLE_SECONDS = 0.02


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


def encoder_flops(config: Config, batch: int, tokens: int) -> int:
    """Floating-point operations of the encoder's layers: two for each multiply-add of its products.

    Biases, activations, softmax, LayerNorm, embeddings and pooler, some percent of the time, aren't counted.

    >>> encoder_flops(SqueezeBertConfig(), 1, 128) / 1e9
    7.398752256
    """
    hidden = config.hidden_size
    intermediate = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    groups = {name: getattr(config, f"{name}_groups", 1) for name in GROUPED}
    per_token = sum(hidden * hidden // groups[name] for name in GROUPED[:4])
    per_token += sum(hidden * intermediate // groups[name] for name in GROUPED[4:])
    per_token += 2 * tokens * hidden  # scores, and their product with the values
    return 2 * per_token * config.num_hidden_layers * batch * tokens


def forward_candidates(
    model: Model,
    names: Sequence[str],
    batch: int,
    tokens: int,
    *,
    precisions: Sequence[str] = ("float32",),
    seed: int = 0,
) -> dict[str, Callable[[], object]]:
    """The model's forward on the same random ids, [batch, tokens], by each backend in `names`.

    names: backends, of which each must serve (no falling back unseen), or "transformers" for transformers'
        model, which must then be installed: of a SqueezeBERT the eager one with its weights.
    precisions: as `patch` takes them: each gives a candidate of every backend, named "cpu int8" and the like, but
        "cpu" alone for float32. The reference and transformers compute in float32, once.
    The candidates share `model`'s parameters; `model` itself stays as it is.

    Raises ArgumentError for a name or precision that is unknown or given twice, UnsupportedError for one that can't
    serve.
    """
    for what, given in (("backends", names), ("precisions", precisions)):
        if len(set(given)) < len(given):
            raise ArgumentError(f"the {what} {', '.join(given)} are not all different")
    limit = token_limit(model.config)
    if batch < 1 or not 1 <= tokens <= limit:
        raise ArgumentError(f"the shape is {batch}x{tokens}; expected at least 1x1 and up to {limit} tokens")
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (batch, tokens), generator=generator)

    def forward_of(module: torch.nn.Module) -> Callable[[], object]:
        def forward() -> object:
            with torch.inference_mode():
                return module(ids)

        return forward

    candidates = {}
    for name in names:
        for precision in ("float32",) if name in (TRANSFORMERS, "reference") else precisions:
            label = name if precision == "float32" else f"{name} {precision}"
            candidates[label] = forward_of(_variant(model, name, precision))
    return candidates


def precision_of(candidate: str) -> str:
    """The precision of a candidate of `forward_candidates`, by its name."""
    return candidate.partition(" ")[2] or "float32"


def _variant(model: Model, name: str, precision: str) -> torch.nn.Module:
    if name == TRANSFORMERS:
        return _in_transformers(model) if isinstance(model, SqueezeBertModel) else model
    sharing = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    strict = name != "auto" or precision != "float32"
    return patch(copy.deepcopy(model, sharing), precision=precision, backend=name, strict=strict)


def _in_transformers(model: SqueezeBertModel) -> torch.nn.Module:
    transformers = library("for its model")
    config = transformers.SqueezeBertConfig.from_dict(model.config.to_dict())
    theirs = transformers.SqueezeBertModel(config).eval()
    theirs.load_state_dict(model.state_dict(), assign=True)
    return theirs


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

    machine: by default the sections of `doctor()`.
    """

    title: str
    cases: tuple[Case, ...]
    threads: int = field(default_factory=torch.get_num_threads)
    machine: dict[str, dict[str, str]] = field(
        default_factory=lambda: {name: dict(rows) for name, rows in doctor().sections.items()}
    )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, with every single run."""
        return {
            "title": self.title,
            "threads": self.threads,
            "machine": self.machine,
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
        """A rich table, a row for each candidate of each case."""
        from rich.box import SIMPLE
        from rich.table import Table

        title = f"{self.title}, {self.threads} threads"
        table = Table(title=title, box=SIMPLE, collapse_padding=True, pad_edge=False)
        table.add_column("case")
        table.add_column("candidate", no_wrap=True)
        for column in ("median ms", "p20 .. p80", "speed-up", "GFLOP/s", "of peak"):
            table.add_column(column, justify="right", no_wrap=True)
        for case in self.cases:
            for number, timing in enumerate(case.timings):
                rate, fraction = case.rate(timing), case.fraction_of_peak(timing)
                table.add_row(
                    "" if number else case.name,
                    timing.name,
                    f"{1e3 * timing.median:.4g}",
                    f"{1e3 * timing.percentile(20):.4g} .. {1e3 * timing.percentile(80):.4g}",
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
        figure.suptitle(f"{self.title}, {self.threads} threads", fontsize=10)
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
    return f"{1e3 * timing.median:.3g} ms{share}"


def check_plot(path: Path) -> None:
    """Tell before anything is measured whether `Report.plot` can draw to `path`.

    Raises ArgumentError for a suffix other than .png or .svg, UnsupportedError without matplotlib.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise ArgumentError(f"the plot {path} has another suffix than {' or '.join(PLOT_SUFFIXES)}")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise UnsupportedError(
            f"a plot needs matplotlib ({error}); pip install squeezebert-fast[plot]"
        ) from error
