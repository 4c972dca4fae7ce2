"""Classification of a text or a pair of texts, and regression: a table with a column for labels or numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForSequenceClassification
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.tables.sources import files_of
from squeezebert_fast.training import labels, metrics
from squeezebert_fast.training.tasks.base import Batch, Features, pad_rows, token_types
from squeezebert_fast.training.tasks.example_rows import Columns, ExampleRows
from squeezebert_fast.training.tasks.judged import (
    JudgedTask,
    Judgement,
    Measured,
    Tables,
    judged_choice,
    measured_choices,
)

logger = logging.getLogger("squeezebert_fast.training")


class LabelledText(NamedTuple):
    """A text, or a pair, with its label as the file spells it."""

    text: str
    pair: str | None
    label: str
    place: str
    row: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class TableColumns(Columns):
    """Which columns of a table hold what."""

    pair: str | None = None


class SequenceClassification(JudgedTask):
    """One of several labels for a text or a pair."""

    name = "classification"
    model_class = SqueezeBertForSequenceClassification
    metrics: tuple[str, ...] = ("accuracy", "f1_macro", "matthews", "f1")
    has_classes = True

    def __init__(self, columns: TableColumns, labels: Sequence[str] = ()) -> None:
        """labels: the names that `labels.meet` is given."""
        self.columns = columns
        self.labels = labels
        self.names: Sequence[str] = ()  # known once there is a configuration

    def files(self, source: str) -> list[str]:
        return files_of(source, self.columns.format)

    def kept(self) -> dict[str, Any]:
        columns = self.columns
        return {"column": columns.text, "pair_column": columns.pair, "label_column": columns.label}

    def examples_of(self, source: str) -> list[LabelledText]:
        texts = [self.columns.text, *([self.columns.pair] if self.columns.pair is not None else [])]
        examples = []
        for (*values, label), place, whole in ExampleRows(source, texts, self.columns):
            if not label.strip():
                raise InputError(f"{place}: {self.columns.label!r} is empty, expected a label")
            examples.append(
                LabelledText(values[0], values[1] if len(values) > 1 else None, label, place, whole)
            )
        return examples

    def label_fields(
        self, examples: Sequence[LabelledText], known: Sequence[str] = (), *, teacher: bool = False
    ) -> dict[str, Any]:
        found = _found(examples)
        own = label_names(set(found))
        if len(own) < 2:
            raise InputError(
                f"every label of the training data is {own[0]!r}, expected at least two different ones"
            )
        names = labels.names_for(found, own, self.labels, known, teacher=teacher)
        if names == own:
            for first, second in spelled_twice(own):
                logger.warning(
                    "the labels %r and %r differ only in spelling, and are two classes", first, second
                )
        return {**labels.fields(names), "problem_type": "single_label_classification"}

    def encode(
        self,
        examples: Sequence[LabelledText],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        targets = self._targets(examples, config)
        pairs = None if examples[0].pair is None else [example.pair for example in examples]
        encoded = tokenizer([e.text for e in examples], pairs, truncation=True, max_length=max_length)
        return [
            {"input_ids": ids, "token_type_ids": types, "label": target}
            for ids, types, target in zip(encoded["input_ids"], token_types(encoded), targets, strict=True)
        ]

    def _targets(self, examples: Sequence[LabelledText], config: Config) -> list[int] | list[float]:
        """What the model is to say of each: a label's id."""
        meeting = labels.meet(_found(examples), labels.in_order(config.id2label), self.labels)
        self.names, self.reading = meeting.names, meeting.reading or self.reading
        if len(self.names) > 2:
            self.metrics = tuple(name for name in self.metrics if name != "f1")
        return [meeting.ids[example.label] for example in examples]

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        return {**pad_rows(rows, pad), "labels": torch.tensor([row["label"] for row in rows])}

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        return F.cross_entropy(output["logits"].float(), batch["labels"], reduction="sum")

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return output["logits"].argmax(-1).tolist()

    def score(
        self, examples: Sequence[LabelledText], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        return metrics.classification(answers, [row["label"] for row in rows], len(self.names))

    def measured(self, output: ModelOutput, batch: Batch, answers: Sequence[Any]) -> list[Measured]:
        return measured_choices(output["logits"], batch["labels"])

    def judge(
        self,
        examples: Sequence[LabelledText],
        rows: Sequence[Features],
        answers: Sequence[Any],
        measured: Sequence[Measured],
    ) -> list[Judgement]:
        return [
            judged_choice(_shown(example), self.names[row["label"]], self.names[answer], each, example.row)
            for example, row, answer, each in zip(examples, rows, answers, measured, strict=True)
        ]

    def tables(
        self, examples: Sequence[LabelledText], rows: Sequence[Features], answers: Sequence[Any]
    ) -> Tables | None:
        counts = metrics.confused(answers, [row["label"] for row in rows], len(self.names))
        confusion = metrics.Confusion(self.names, counts)
        return Tables(confusion.by_class(), confusion)

    def right_answers(self, rows: Sequence[Features]) -> list[Any]:
        return [row["label"] for row in rows]

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        return list(output["logits"].float()[:, None])

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        return labels.matching(teacher_labels, config.id2label, self.labels)


class Regression(SequenceClassification):
    """A number for a text or a pair. activation: what makes it of the logit, as a CrossEncoder's does."""

    name = "regression"
    metrics = ("r2", "pearson", "spearman", "mse")
    has_classes = False
    activation: Callable[[Tensor], Tensor] | None = None

    def label_fields(
        self, examples: Sequence[LabelledText], known: Sequence[str] = (), *, teacher: bool = False
    ) -> dict[str, Any]:
        return {**labels.fields([self.columns.label]), "problem_type": "regression"}

    def _targets(self, examples: Sequence[LabelledText], config: Config) -> list[int] | list[float]:
        return [_number(example) for example in examples]

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        return F.mse_loss(self._values(output), batch["labels"], reduction="sum")

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return self._values(output).tolist()

    def _values(self, output: ModelOutput) -> Tensor:
        logits = output["logits"].float().squeeze(-1)
        return logits if self.activation is None else self.activation(logits)

    def score(
        self, examples: Sequence[LabelledText], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        return metrics.regression(answers, [row["label"] for row in rows])

    def measured(self, output: ModelOutput, batch: Batch, answers: Sequence[Any]) -> list[Measured]:
        return [
            Measured((answer - label) ** 2)
            for answer, label in zip(answers, batch["labels"].tolist(), strict=True)
        ]

    def judge(
        self,
        examples: Sequence[LabelledText],
        rows: Sequence[Features],
        answers: Sequence[Any],
        measured: Sequence[Measured],
    ) -> list[Judgement]:
        return [
            Judgement(_shown(example), row["label"], answer, None, each.loss, None, row=example.row)
            for example, row, answer, each in zip(examples, rows, answers, measured, strict=True)
        ]

    def tables(
        self, examples: Sequence[LabelledText], rows: Sequence[Features], answers: Sequence[Any]
    ) -> Tables | None:
        return None

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        return None


def _shown(example: LabelledText) -> dict[str, Any]:
    return {"text": example.text} | ({} if example.pair is None else {"pair": example.pair})


def _found(examples: Iterable[LabelledText]) -> dict[str, str]:
    return labels.places_of((example.label, example.place) for example in examples)


def _number(example: LabelledText) -> float:
    try:
        value = float(example.label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{example.place}: the label is {example.label!r}, expected a finite number; --task classification learns "
            "and measures names"
        )
    return value


def label_names(labels: set[str]) -> list[str]:
    """Labels in the order of their ids: as numbers if all are whole numbers, else as texts."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def spelled_twice(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of labels that are the same number, or the same text but for case and the spaces around it."""
    seen: dict[str | float, str] = {}
    pairs = []
    for label in labels:
        text = label.strip().casefold()
        value = float(text) if text.replace(".", "", 1).isdecimal() else text
        if value in seen:
            pairs.append((seen[value], label))
        seen.setdefault(value, label)
    return pairs
