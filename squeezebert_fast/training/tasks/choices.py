"""Multiple choice: a table with a text, a column for each choice and the number of the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForMultipleChoice
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.tables.sources import files_of
from squeezebert_fast.training.tasks.base import MODEL_INPUTS, Batch, Features, pad_rows, token_types
from squeezebert_fast.training.tasks.example_rows import Columns, ExampleRows
from squeezebert_fast.training.tasks.judged import (
    JudgedTask,
    Judgement,
    Measured,
    judged_choice,
    measured_choices,
)


class Question(NamedTuple):
    """A text with its choices, and the index of the right one."""

    text: str
    choices: tuple[str, ...]
    right: int
    row: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class ChoiceColumns(Columns):
    """Which columns of a table hold what. The label is the right choice's index in `choices`, from 0."""

    choices: tuple[str, ...]


class MultipleChoice(JudgedTask):
    """The one of several second texts that goes with the first."""

    name = "multiple-choice"
    model_class = SqueezeBertForMultipleChoice
    metrics = ("accuracy",)

    def __init__(self, columns: ChoiceColumns) -> None:
        if len(columns.choices) < 2:
            raise InputError("multiple choice needs two choices at least: --choice-columns first,second")
        self.columns = columns

    def files(self, source: str) -> list[str]:
        return files_of(source, self.columns.format)

    def kept(self) -> dict[str, Any]:
        columns = self.columns
        choices = ",".join(columns.choices)
        return {"column": columns.text, "choice_columns": choices, "label_column": columns.label}

    def examples_of(self, source: str) -> list[Question]:
        names = [self.columns.text, *self.columns.choices]
        questions = []
        for (text, *choices, label), place, whole in ExampleRows(source, names, self.columns):
            if not (label.isascii() and label.isdigit() and int(label) < len(choices)):
                raise InputError(
                    f"{place}: the label is {label!r}, expected the right choice's number, 0 to {len(choices) - 1}"
                )
            questions.append(Question(text, tuple(choices), int(label), whole))
        return questions

    def encode(
        self,
        examples: Sequence[Question],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        count = len(self.columns.choices)
        encoded = tokenizer(
            [question.text for question in examples for _ in range(count)],
            [choice for question in examples for choice in question.choices],
            truncation=True,
            max_length=max_length,
        )
        types = token_types(encoded)
        return [
            {
                "input_ids": encoded["input_ids"][at * count : (at + 1) * count],
                "token_type_ids": types[at * count : (at + 1) * count],
                "label": question.right,
            }
            for at, question in enumerate(examples)
        ]

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        flat = [
            {"input_ids": ids, "token_type_ids": types}
            for row in rows
            for ids, types in zip(row["input_ids"], row["token_type_ids"], strict=True)
        ]
        batch = pad_rows(flat, pad)
        shaped = {name: batch[name].unflatten(0, (len(rows), -1)) for name in MODEL_INPUTS}
        return {**shaped, "labels": torch.tensor([row["label"] for row in rows])}

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        return F.cross_entropy(output["logits"].float(), batch["labels"], reduction="sum")

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return output["logits"].argmax(-1).tolist()

    def score(
        self, examples: Sequence[Question], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        right = sum(answer == question.right for answer, question in zip(answers, examples, strict=True))
        return {"accuracy": right / len(examples)}

    def measured(self, output: ModelOutput, batch: Batch, answers: Sequence[Any]) -> list[Measured]:
        return measured_choices(output["logits"], batch["labels"])

    def judge(
        self,
        examples: Sequence[Question],
        rows: Sequence[Features],
        answers: Sequence[Any],
        measured: Sequence[Measured],
    ) -> list[Judgement]:
        names = self.columns.choices
        return [
            judged_choice(
                {"text": question.text, **dict(zip(names, question.choices, strict=True))},
                names[question.right],
                names[answer],
                each,
                question.row,
            )
            for question, answer, each in zip(examples, answers, measured, strict=True)
        ]

    def right_answers(self, rows: Sequence[Features]) -> list[Any]:
        return [row["label"] for row in rows]

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        return list(output["logits"].float()[:, None])
