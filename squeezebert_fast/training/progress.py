"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """With the parameters and the optimizer's state, all that a resumed run needs."""

    step: int = 0
    evaluated: int = 0  # the step of the last evaluation
    best: dict[str, Any] | None = None
    evaluations_since_best: int = 0
    seconds: float = 0.0
    skipped: int = 0  # steps whose gradients overflowed float16
    peak_memory: int = 0  # bytes of a GPU
    recent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("loss", "tokens", "steps", "seconds"), 0.0)
    )
