"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from squeezebert_fast.errors import ArgumentError, check_among
from squeezebert_fast.trained_with import DEFAULT_LENGTH

PRECISIONS = ("float32", "bfloat16", "float16")

PRETRAINED, NEW = 0.0384, 0.256
"""The usual learning rate times the hidden size: BERT's 5e-5 of 768, and 2e-3 of a new model of 128. The wider a layer,
the smaller the step that changes its output by as much (Yang et al. 2022, arXiv 2203.03466)."""

EPOCHS, MOST_EPOCHS = 3, 20
LEAST_STEPS, LEAST_STEPS_OF_NEW = 400, 2400
MOST_STEPS = 12_000
"""3 epochs, unless they make fewer or more optimizer steps than these. Of few examples more epochs are stable and end
better (Mosbach et al. 2021, arXiv 2006.04884; Zhang et al. 2021, arXiv 2006.05987); of very many, fewer are enough."""


def usual_epochs(steps_per_epoch: int, new_model: bool) -> int:
    """For so much data: see EPOCHS."""
    least = LEAST_STEPS_OF_NEW if new_model else LEAST_STEPS
    wanted = max(EPOCHS, min(MOST_EPOCHS, math.ceil(least / steps_per_epoch)))
    return max(1, min(wanted, MOST_STEPS // steps_per_epoch))


def setting(
    default: Any,
    help: str,
    at_least: float | None = None,
    *,
    values: Sequence[str] | None = None,
    free: bool = False,
) -> Any:
    """A field of a settings class, with what the command line says of it.

    at_least: the smallest number that it may be. values: the words that it may be. free: it doesn't change a run's
    result, so that a resumed run may have another.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "at_least": at_least, "values": values, "free": free}
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is trained. Raises ArgumentError for a value that makes no sense."""

    epochs: int | None = setting(
        None,
        "Passes over the training data; by default 3, of few examples up to 20, of very many fewer.",
        1,
    )
    max_steps: int | None = setting(None, "Stop after this many optimizer steps.", 1)
    batch_size: int = setting(
        32, "Examples that one optimizer step learns from, whatever the number of processes.", 1
    )
    accumulate: int = setting(1, "Forward passes that a process runs its share of a batch in: memory.", 1)
    learning_rate: float | None = setting(
        None,
        "The highest learning rate; by default 0.0384 divided by the hidden size, for a new model 0.256 by it.",
        0,
    )
    warmup: float = setting(0.1, "Fraction of all steps that the learning rate rises in; then it falls.", 0)
    weight_decay: float = setting(0.01, "AdamW's, of all weights but biases and LayerNorms.", 0)
    max_gradient_norm: float = setting(1.0, "The gradient is clipped to this norm; 0 for any.", 0)
    average: float = setting(
        0.0,
        "Evaluate and keep a moving average of the parameters, with this decay: 0.999 is some 1000 steps; 0 for none.",
        0,
    )
    precision: str = setting(
        "float32",
        "float32, or mixed precision by autocast: bfloat16, or float16, which is for CUDA GPUs alone.",
        values=PRECISIONS,
    )
    max_length: int | None = setting(
        None,
        "Tokens at which an input is cut; by default as the model that a run starts from, or the teacher, was trained, "
        f"or else {DEFAULT_LENGTH}; as many as the model takes if that is less.",
        3,
    )
    seed: int = setting(0, "Of everything random. The same seed gives the same bits on one machine's CPU.", 0)
    metric: str | None = setting(None, "What the best model is chosen by; by default the task's usual one.")
    patience: int | None = setting(None, "Stop after this many evaluations without a better one.", 1)
    evaluate_every: int | None = setting(None, "Evaluate every N steps too, not only after each epoch.", 1)
    save_every: int = setting(500, "Write a checkpoint every N steps, and after each epoch.", 1, free=True)
    log_every: int = setting(10, "Log every N steps.", 1, free=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), field.metadata["at_least"]
            if least is not None and value is not None and not (math.isfinite(value) and value >= least):
                raise ArgumentError(f"{field.name} is {value!r}, expected a number of at least {least}")
        if self.warmup > 1:
            raise ArgumentError(f"warmup is {self.warmup!r}, expected a fraction from 0 to 1")
        if self.average >= 1:
            raise ArgumentError(f"average is {self.average!r}, expected a decay from 0 to below 1")
        if self.learning_rate == 0:
            raise ArgumentError("learning_rate is 0, expected a positive number")
        check_among("precision", self.precision, PRECISIONS)

    def filled(self, hidden_size: int, new_model: bool, steps_per_epoch: int) -> Settings:
        """With the learning rate of a model of this size and the epochs of so much data, where there are none."""
        return dataclasses.replace(
            self,
            learning_rate=self.learning_rate or (NEW if new_model else PRETRAINED) / hidden_size,
            epochs=self.epochs or usual_epochs(steps_per_epoch, new_model),
        )

    def binding(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata["free"]}


@dataclass(frozen=True, kw_only=True)
class Softness:
    """How much the teacher counts. Raises ArgumentError for a value that makes no sense."""

    alpha: float = setting(0.5, "Weight of the teacher's soft targets; the labels have the rest.", 0)
    temperature: float = setting(2.0, "Softens the teacher's probabilities: logits are divided by it.", 0)
    hidden: float = setting(
        0.0, "Weight of the distance between student's and teacher's hidden states; 0 for none.", 0
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ArgumentError(f"alpha is {self.alpha!r}, expected a fraction from 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise ArgumentError(f"temperature is {self.temperature!r}, expected a positive number")
        if not 0 <= self.hidden < float("inf"):
            raise ArgumentError(f"hidden is {self.hidden!r}, expected a number of at least 0")
