"""What a run writes on its way, by the first process alone; where it can't be written, all of them end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from squeezebert_fast.pretrained import Model
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.reporting import draw_curves
from squeezebert_fast.training.run_folder import RunFolder

SECONDS_BETWEEN_DRAWINGS = 60.0
"""A picture takes half a second, which may be more than what it is of."""

Made = Callable[[], Mapping[str, Any]]
"""Makes what is to be written, where it is."""


class Records:
    """Writes to `folder`; every process must call the same methods. All of them raise StorageError in all processes.

    metric: the best model is chosen by it. own_loss: whether training and evaluation have the same loss.
    """

    def __init__(self, folder: RunFolder, processes: Processes, metric: str, *, own_loss: bool) -> None:
        self.folder, self.processes = folder, processes
        self.metric, self.own_loss = metric, own_loss
        self._drawn = time.monotonic()

    @property
    def kept(self) -> str:
        """What a run that ends here has left."""
        kept = "the last checkpoint is kept" if self.folder.has_state else "there is no checkpoint yet"
        return f"{kept} in {self.folder.path}"

    def step(self, make: Made) -> None:
        """Log some steps."""
        self.processes.from_first(lambda: self.folder.log(make()))

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Log an evaluation, and draw the curves now and then."""

        def work() -> None:
            self.folder.log(record)
            if time.monotonic() > self._drawn + SECONDS_BETWEEN_DRAWINGS:
                self._draw()

        self.processes.from_first(work)

    def curves(self) -> None:
        """Draw the curves."""
        self.processes.from_first(self._draw)

    def model(self, model: Model) -> None:
        """Make `model` the folder's."""
        self.processes.from_first(lambda: self.folder.save_model(model))

    def state(self, make: Made) -> None:
        """Replace the checkpoint, which is told how long the log is at that time."""
        self.processes.from_first(
            lambda: self.folder.save_state({**make(), "log_bytes": self.folder.log_bytes})
        )

    def forget_after(self, log_bytes: int) -> None:
        """Cut off what was logged after a checkpoint."""
        self.processes.from_first(lambda: self.folder.cut_log(log_bytes))

    def summary(self, summary: Mapping[str, Any]) -> None:
        """End the run."""
        self.processes.from_first(lambda: self.folder.write_summary(summary))

    def _draw(self) -> None:
        draw_curves(self.folder.records(), self.metric, self.folder.curves, own_loss=self.own_loss)
        self._drawn = time.monotonic()
