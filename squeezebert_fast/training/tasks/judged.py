"""What a task can say of a model beyond its metrics: example by example, and class by class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import ModelOutput
from squeezebert_fast.training.file_kinds import TABLE, hint
from squeezebert_fast.training.metrics import ClassFigures, Confusion
from squeezebert_fast.training.tasks.base import Batch, Features, Task


class Measured(NamedTuple):
    """loss: of a row. sure: the probability of each answer that the row has: one, or of tags one for each word."""

    loss: float
    sure: Sequence[float] = ()


class Answer(NamedTuple):
    """The probability that the model gave its answer, and whether it is right."""

    sure: float
    right: bool


@dataclass(frozen=True)
class Judgement:
    """What a model said of an example, beside what is right.

    shown: the example's texts, by name. row: all of its columns, where they were read. label, prediction: as the
    model's labels are called, numbers of a regression, lists of tags. score: the prediction's probability, None of a
    regression. right: None of a regression. answers: what calibration is measured on; of tags there are several.
    """

    shown: Mapping[str, Any]
    label: Any
    prediction: Any
    score: float | None
    loss: float
    right: bool | None
    answers: Sequence[Answer] = ()
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> dict[str, Any]:
        """What was said, beside what is right, by name."""
        judged = {"label": self.label, "prediction": self.prediction, "score": self.score}
        return {**judged, "right": self.right, "loss": self.loss}


@dataclass(frozen=True)
class Tables:
    """classes: how well each class, or type of entity, is found, by name. confusion: what was taken for what."""

    classes: Mapping[str, ClassFigures]
    confusion: Confusion


class JudgedTask(Task):
    """A task whose examples have a label each, or several.

    kind: of its files, of `file_kinds.TASKS`. has_classes: whether there are `tables`.
    """

    kind: ClassVar[str] = TABLE
    has_classes: ClassVar[bool] = False

    def read(self, source: str) -> list[Any]:
        try:
            return self.examples_of(source)
        except InputError as error:
            if advice := hint(source, self.kind):
                raise InputError(f"{error}{advice}") from error
            raise

    @abstractmethod
    def examples_of(self, source: str) -> list[Any]:
        """As `read`, whose errors say besides which task the file looks made for."""

    @abstractmethod
    def measured(self, output: ModelOutput, batch: Batch, answers: Sequence[Any]) -> list[Measured]:
        """For each row of a batch. answers: to them, as `answers` gives them."""

    @abstractmethod
    def judge(
        self,
        examples: Sequence[Any],
        rows: Sequence[Features],
        answers: Sequence[Any],
        measured: Sequence[Measured],
    ) -> list[Judgement]:
        """For each example; the rest is of the rows that `encode` made of them."""

    def tables(
        self, examples: Sequence[Any], rows: Sequence[Features], answers: Sequence[Any]
    ) -> Tables | None:
        """Class by class; None where there are no classes."""
        return None


def measured_choices(logits: Tensor, labels: Tensor) -> list[Measured]:
    """Of rows whose answer is the class of the highest logit [rows, classes]; labels: the right ones."""
    logs = logits.float().log_softmax(-1)
    losses, best = -logs.gather(-1, labels[:, None])[:, 0], logs.max(-1).values.exp()
    return [Measured(loss, (sure,)) for loss, sure in zip(losses.tolist(), best.tolist(), strict=True)]


def judged_choice(
    shown: Mapping[str, Any], label: str, prediction: str, measured: Measured, row: Mapping[str, Any]
) -> Judgement:
    """Of an example whose answer is one of several classes."""
    right, (sure,) = prediction == label, measured.sure
    return Judgement(shown, label, prediction, sure, measured.loss, right, (Answer(sure, right),), row)
