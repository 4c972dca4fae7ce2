"""What a classifier takes for what, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from squeezebert_fast.storage.files import all_or_nothing
from squeezebert_fast.training.metrics import Confusion

NUMBERED = 25  # classes whose counts can still be read in their squares
NAMED = 160  # classes whose names can still be read beside the picture
LONGEST_NAME = 24  # characters


def draw_confusion(confusion: Confusion, path: Path) -> None:
    """Draw a matrix to a .png or .svg file, whole or not at all: labels down, predictions across, rows by fractions.

    matplotlib must be there. Raises CheckpointError if `path` can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts, classes = confusion.counts, len(confusion.names)
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3.5 + 0.4 * classes, 24)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="of the label's examples", shrink=0.8)
    if classes <= NAMED:
        # "$" would begin a formula.
        names = [_short(name).replace("$", r"\$") for name in confusion.names]
        small = 9 if classes <= NUMBERED else 5
        axes.set_xticks(range(classes), names, rotation=90, fontsize=small)
        axes.set_yticks(range(classes), names, fontsize=small)
    if classes <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if fractions[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    with all_or_nothing(path.parent) as stage:
        figure.savefig(stage(path.name), format=path.suffix[1:].lower(), dpi=120)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
