"""Classification of a text or a pair of texts, and regression: a table with a column for labels or numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError, TrainingError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForSequenceClassification
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.tables.rows import DEFAULT_COLUMN, Rows
from squeezebert_fast.training import metrics
from squeezebert_fast.training.tasks.base import Batch, Features, Task, pad_rows, token_types

logger = logging.getLogger("squeezebert_fast.training")

DEFAULT_LABEL_COLUMN = "label"
LISTED = 5  # labels that an error names


class LabelledText(NamedTuple):
    """A text, or a pair, with its label as the file spells it."""

    text: str
    pair: str | None
    label: str
    place: str


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table hold what, and its format where the suffix doesn't say it."""

    text: str = DEFAULT_COLUMN
    pair: str | None = None
    label: str = DEFAULT_LABEL_COLUMN
    format: str | None = None


class SequenceClassification(Task):
    """One of several labels for a text or a pair."""

    name = "classification"
    model_class = SqueezeBertForSequenceClassification
    metrics: tuple[str, ...] = ("accuracy", "f1_macro", "matthews", "f1")

    def __init__(self, columns: TableColumns) -> None:
        self.columns = columns
        self.classes = 0  # known once there is a configuration

    def kept(self) -> dict[str, Any]:
        columns = self.columns
        return {"column": columns.text, "pair_column": columns.pair, "label_column": columns.label}

    def read(self, source: str) -> list[LabelledText]:
        texts = [self.columns.text, *([self.columns.pair] if self.columns.pair is not None else [])]
        rows = Rows(source, [*texts, self.columns.label], self.columns.format, scalars={self.columns.label})
        examples = []
        for (*values, label), place in rows:
            if not label.strip():
                raise InputError(f"{place}: {self.columns.label!r} is empty, expected a label")
            examples.append(LabelledText(values[0], values[1] if len(values) > 1 else None, label, place))
        return examples

    def label_fields(self, examples: Sequence[LabelledText]) -> dict[str, Any]:
        labels = label_names({example.label for example in examples})
        if len(labels) < 2:
            raise InputError(
                f"every label of the training data is {labels[0]!r}, expected at least two different ones"
            )
        for first, second in spelled_twice(labels):
            logger.warning("the labels %r and %r differ only in spelling, and are two classes", first, second)
        return {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": "single_label_classification",
        }

    def encode(
        self,
        examples: Sequence[LabelledText],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        self.classes = config.num_labels
        if self.classes > 2:
            self.metrics = tuple(name for name in self.metrics if name != "f1")
        labels = [self._label(example, config) for example in examples]
        pairs = None if examples[0].pair is None else [example.pair for example in examples]
        encoded = tokenizer([e.text for e in examples], pairs, truncation=True, max_length=max_length)
        return [
            {"input_ids": ids, "token_type_ids": types, "label": label}
            for ids, types, label in zip(encoded["input_ids"], token_types(encoded), labels, strict=True)
        ]

    def _label(self, example: LabelledText, config: Config) -> int | float:
        return label_index(example.label, config, example.place)

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        return {**pad_rows(rows, pad), "labels": torch.tensor([row["label"] for row in rows])}

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        return F.cross_entropy(output["logits"].float(), batch["labels"], reduction="sum")

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return output["logits"].argmax(-1).tolist()

    def score(
        self, examples: Sequence[LabelledText], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        return metrics.classification(answers, [row["label"] for row in rows], self.classes)

    def right_answers(self, rows: Sequence[Features]) -> list[Any]:
        return [row["label"] for row in rows]

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        return list(output["logits"].float()[:, None])

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        return matching_labels(teacher_labels, config)


class Regression(SequenceClassification):
    """A number for a text or a pair."""

    name = "regression"
    metrics = ("pearson", "spearman", "mse")

    def label_fields(self, examples: Sequence[LabelledText]) -> dict[str, Any]:
        return {
            "id2label": {0: self.columns.label},
            "label2id": {self.columns.label: 0},
            "problem_type": "regression",
        }

    def _label(self, example: LabelledText, config: Config) -> int | float:
        try:
            value = float(example.label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{example.place}: the label is {example.label!r}, expected a finite number")
        return value

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        return F.mse_loss(output["logits"].float().squeeze(-1), batch["labels"], reduction="sum")

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return output["logits"].float().squeeze(-1).tolist()

    def score(
        self, examples: Sequence[LabelledText], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        return metrics.regression(answers, [row["label"] for row in rows])

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        return None


def label_names(labels: set[str]) -> list[str]:
    """Labels in the order of their ids: as numbers if all are whole numbers, else as texts."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def spelled_twice(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of labels that are the same number, or the same text but for the spaces around it."""
    seen: dict[str | float, str] = {}
    pairs = []
    for label in labels:
        text = label.strip()
        value = float(text) if text.replace(".", "", 1).isdecimal() else text
        if value in seen:
            pairs.append((seen[value], label))
        seen.setdefault(value, label)
    return pairs


def matching_labels(teacher_labels: Mapping[int, str], config: Config) -> list[int]:
    """For each label of `config` the teacher's id: by name, or by id where the data's labels are the ids.

    Raises TrainingError where neither fits.
    """
    own = config.id2label or {}
    by_name = {name: index for index, name in teacher_labels.items()}
    if by_name.keys() == set(own.values()):
        return [by_name[own[index]] for index in range(len(own))]
    if [own[index] for index in range(len(own))] == [str(index) for index in sorted(teacher_labels)]:
        return list(range(len(own)))
    raise TrainingError(
        f"the teacher's labels are {some_labels(teacher_labels.values())}, the data's {some_labels(own.values())}"
    )


def some_labels(labels: Iterable[str]) -> str:
    """The first labels, for a message."""
    known = [repr(label) for label in labels]
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(known[:LISTED]) + more


def label_index(label: str, config: Config, place: str) -> int:
    """The id of a label. Raises InputError, naming `place`, for one that the configuration doesn't have."""
    index = (config.label2id or {}).get(label)
    if index is None:
        known = some_labels((config.id2label or {}).values())
        raise InputError(f"{place}: the label {label!r} is not one of {known}")
    return index
