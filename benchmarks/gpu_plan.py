"""The steps of `benchmarks.gpu_check`, in the order of their importance."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.gpu_curves import curves
from benchmarks.gpu_steps import (
    EAGER,
    SDPA,
    TILED,
    Context,
    about,
    ceilings,
    compiled,
    latency,
    model,
    passes,
    ragged,
    tiles,
)
from benchmarks.gpu_training import compiled_training, training
from benchmarks.report import Shape, shape_name

LARGE: tuple[Shape, ...] = ((256, 128), (64, 512))
TRAINED: tuple[Shape, ...] = ((32, 128), (64, 512))
SMALL: tuple[Shape, ...] = ((1, 128), (32, 128))

STEPS: dict[str, tuple[Callable[[Context], dict[str, Any]], float]] = {
    "about": (about, 40.0),
    "ceilings": (ceilings, 20.0),
    **{f"model_{shape_name(s)}": (model(s), 35.0) for s in LARGE},
    **{f"training_{shape_name(s)}": (training(s), 60.0) for s in TRAINED},
    "training_curves": (curves, 80.0),
    **{f"model_{shape_name(s)}": (model(s), 35.0) for s in SMALL},
    "ragged": (ragged, 25.0),
    "latency": (latency, 25.0),
    **{f"passes_{shape_name(s)}": (passes(s), 30.0) for s in (*LARGE, SMALL[0])},
    "training_compile_64x512": (compiled_training((64, 512)), 150.0),
    "compile_256x128": (compiled((256, 128), SDPA), 75.0),
    "training_compile_32x128": (compiled_training((32, 128)), 150.0),
    "compile_1x128": (compiled((1, 128), SDPA), 75.0),
    **{f"tiles_{TILED[name]}": (tiles(name, (256, 128)), 30.0) for name in TILED},
    "compile_64x512": (compiled((64, 512), SDPA), 75.0),
    "compile_256x128_own_attention": (compiled((256, 128), EAGER), 75.0),
    **{f"tiles_small_{TILED[name]}": (tiles(name, (1, 128)), 30.0) for name in TILED},
    "compile_32x128": (compiled((32, 128), SDPA), 75.0),
}
"""By name, in the order of their importance: what to do, and the most seconds that it may take, start-up included."""


SECTIONS: dict[str, tuple[str, ...]] = {
    "inference": ("tests", "sanitizer", *(name for name in STEPS if not name.startswith("training_"))),
    "training": (
        "tests",
        "sanitizer_training",
        "about",
        *(name for name in STEPS if name.startswith("training_")),
    ),
}
"""The steps of one subject: all of both are more than the default time allows."""


def run_step(name: str, dry: bool) -> dict[str, Any]:
    """One step's result; what it left out is under `errors`."""
    if dry:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    run, limit = STEPS[name]
    context = Context(dry, seconds=min(8.0, limit / 3))
    result = run(context)
    return {**result, "errors": context.errors}
