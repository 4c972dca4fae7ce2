"""What a run shows: lines, a progress bar on a terminal, curves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from squeezebert_fast.storage.files import all_or_nothing
from squeezebert_fast.streams import give_up, is_terminal, progress_console


class Reporter:
    """Says what happens: lines on stdout, and a bar on stderr while that is a terminal. `quiet` says nothing.

    as_json: stdout is for a program, which gets how it ended and nothing else; lines go to stderr.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._progress: Any = None
        self._task: Any = None

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
            self._task = progress.add_task("", total=total, completed=done, shown="")
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    @contextmanager
    def evaluation(self, batches: int) -> Iterator[Callable[[], None]]:
        """Show a second bar, of an evaluation's batches, while the block runs. Gives what moves it on by one."""
        if self._progress is None:
            yield lambda: None
            return
        progress = self._progress
        task = progress.add_task("", total=batches, shown="evaluation")
        try:
            yield lambda: progress.advance(task)
        finally:
            progress.remove_task(task)

    def step(self, step: int, loss: float, tokens_per_second: float, best: str) -> None:
        """Move the bar on."""
        if self._progress is not None:
            shown = f"loss {loss:.4f}  {best}  {tokens_per_second:,.0f} tokens/s"
            self._progress.update(self._task, completed=step, shown=shown)

    def say(self, line: str) -> None:
        """Print a line, if it still has a reader: a run outlives whoever watches it."""
        self._print(line, sys.stderr if self.as_json else sys.stdout)

    def end(self, summary: Mapping[str, Any], line: str) -> None:
        """Say how it ended: the summary as JSON, or else the line."""
        self._print(json.dumps(summary) if self.as_json else line, sys.stdout)

    def _print(self, line: str, stream: TextIO) -> None:
        if self.quiet:
            return
        try:
            # one write: torchrun's processes share their streams, and buffer nothing
            stream.write(f"{line}\n")
            stream.flush()
        except OSError:
            give_up(stream)


def in_words(metrics: Mapping[str, float]) -> str:
    """Metrics as a line such as `loss 0.4321, accuracy 0.8123`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def draw_curves(
    records: Sequence[Mapping[str, Any]], metric: str, path: Path, *, own_loss: bool = True
) -> bool:
    """Draw a log's losses and dev metric over the steps to a .png, whole or not at all.

    own_loss: whether training and dev loss are the same quantity, for one axis; else each has its own.
    Returns False, having drawn nothing, where matplotlib isn't installed. Raises StorageError.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    training = [(r["step"], r["loss"]) for r in records if "loss" in r]
    dev = [(r["step"], r["dev"]) for r in records if "dev" in r]
    dev_loss = [(step, values["loss"]) for step, values in dev]
    panels: dict[str, dict[str, list[tuple[int, float]]]]
    if own_loss:
        panels = {"loss": {"training": training, "dev": dev_loss}}
    else:
        panels = {
            "training loss, with the teacher's part": {"training": training},
            "dev loss": {"dev": dev_loss},
        }
    if metric != "loss":
        panels[f"dev {metric}"] = {"dev": [(step, values[metric]) for step, values in dev]}
    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for label, points in curves.items():
            if points:
                marked = "o-" if label == "dev" else "-"
                axes.plot(*zip(*points, strict=True), marked, label=label, linewidth=1, markersize=3)
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend()
    with all_or_nothing(path.parent) as stage:
        figure.savefig(stage(path.name), format="png", dpi=120)
    return True
