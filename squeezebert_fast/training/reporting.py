"""What a run shows: lines, a progress bar on a terminal, curves."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from squeezebert_fast.storage.files import all_or_nothing
from squeezebert_fast.streams import give_up, is_terminal, progress_console


class Reporter:
    """Says what happens: lines on stdout, and a bar on stderr while that is a terminal. `quiet` says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._update: Any = None

    @contextmanager
    def bar(self, total: int, done: int) -> Iterator[None]:
        """Show a bar of `total` steps, `done` of them done, while the block runs."""
        if self.quiet or not is_terminal(sys.stderr):
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
        )
        # Lines meant for a file on stdout must not be taken along to stderr.
        with Progress(
            *columns, console=progress_console(), transient=True, redirect_stdout=is_terminal(sys.stdout)
        ) as progress:
            task = progress.add_task("", total=total, completed=done, shown="")
            self._update = lambda step, shown: progress.update(task, completed=step, shown=shown)
            try:
                yield
            finally:
                self._update = None

    def step(self, step: int, loss: float, tokens_per_second: float, best: str) -> None:
        """Move the bar on."""
        if self._update is not None:
            self._update(step, f"loss {loss:.4f}  {best}  {tokens_per_second:,.0f} tokens/s")

    def say(self, line: str) -> None:
        """Print a line to stdout, if it still has a reader: a run outlives whoever watches it."""
        if self.quiet:
            return
        try:
            print(line, flush=True)
        except OSError:
            give_up(sys.stdout)


def in_words(metrics: Mapping[str, float]) -> str:
    """Metrics as a line such as `loss 0.4321, accuracy 0.8123`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def draw_curves(records: Sequence[Mapping[str, Any]], metric: str, path: Path) -> bool:
    """Draw a log's losses and dev metric over the steps to a .png, whole or not at all.

    Returns False, having drawn nothing, where matplotlib isn't installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    training = [record for record in records if "loss" in record]
    dev = [record for record in records if "dev" in record]
    left.plot([r["step"] for r in training], [r["loss"] for r in training], label="training", linewidth=1)
    if dev:
        left.plot([r["step"] for r in dev], [r["dev"]["loss"] for r in dev], "o-", label="dev", markersize=3)
        if metric != "loss":
            right.plot([r["step"] for r in dev], [r["dev"][metric] for r in dev], "o-", markersize=3)
    left.legend()
    for axes, name in ((left, "loss"), (right, f"dev {metric}")):
        axes.set_xlabel("step")
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    with all_or_nothing(path.parent) as stage:
        figure.savefig(stage(path.name), format="png", dpi=120)
    return True
