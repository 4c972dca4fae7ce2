"""What training needs to know of a task, and the tensors that every task makes."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from squeezebert_fast.errors import TrainingError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertPreTrainedModel
from squeezebert_fast.pretrained import Config, Model, Tokenizer
from squeezebert_fast.training.processes import Processes

Features = dict[str, Any]
"""One row of a batch: `input_ids` and `token_type_ids` (lists of int, or tensors) and what the task adds to them."""

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class DataSet:
    """Examples and the rows of tokens they were made into: one each, or several windows of a long one."""

    examples: Sequence[Any]
    rows: Sequence[Features]

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row."""
        return [length_of(row) for row in self.rows]


MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Task(ABC):
    """A task: examples of a file to rows of tokens, rows to tensors, the model's output to a loss and metrics.

    name: as it is chosen by. model_class: what it trains, or what of another library has the same head. metrics: what
    `score` gives beside `loss`, the one that the best model is chosen by first. needs_hidden_states: whether `loss`
    reads the output's hidden states in training. own_loss: whether the loss in training is that of evaluations.
    reads_words: whether texts are given to the tokenizer as words. reading: how the labels are understood, for the
    user to see, where that isn't obvious.
    """

    name: ClassVar[str]
    model_class: ClassVar[type[SqueezeBertPreTrainedModel]]
    metrics: tuple[str, ...]
    needs_hidden_states: bool = False
    own_loss: bool = True
    reads_words: bool = False
    reading: str = ""

    @abstractmethod
    def read(self, source: str) -> list[Any]:
        """The examples of a file. Raises InputError, naming file and line, for what is none."""

    def kept(self) -> dict[str, Any]:
        """The fields of `TrainedWith` that say how `read` and `encode` make rows of a file."""
        return {}

    def prefer(self, metric: str | None) -> None:
        """Let the best model be chosen by this metric, if the task has it, unless the settings say otherwise."""
        self.metrics = tuple(sorted(self.metrics, key=lambda name: name != metric))

    def label_fields(
        self, examples: Sequence[Any], known: Sequence[str] = (), *, teacher: bool = False
    ) -> dict[str, Any]:
        """The configuration's fields that the training examples decide, such as id2label.

        known: the labels, by id, of the model that training starts from, or of a teacher: see `labels.names_for`.
        """
        return {}

    @abstractmethod
    def encode(
        self,
        examples: Sequence[Any],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        """The rows of all examples, cut at `max_length` tokens. Raises InputError for a label not in `config`."""

    @abstractmethod
    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        """Rows as one batch: MODEL_INPUTS and what `loss` reads.

        epoch: for what is drawn anew in each; -1 for evaluation, which always draws the same.
        """

    def forward(self, model: Model, batch: Batch, *, hidden_states: bool = False) -> ModelOutput:
        """The model's output for a batch, without its own loss: that is a mean, and in autocast's precision.

        hidden_states: whether the output has them too.
        """
        inputs = model_inputs(model, batch)
        output: ModelOutput = model(**inputs, output_hidden_states=hidden_states, return_dict=True)
        return output

    @abstractmethod
    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The sum, not the mean, of the float32 losses of everything that `count` counts, on the batch's device."""

    def count(self, batch: Batch) -> int:
        """What the loss of a step is the mean over: examples, or labelled tokens. Asked of batches on the CPU."""
        return len(batch["input_ids"])

    @abstractmethod
    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        """The model's answer for each row, as plain Python values."""

    @abstractmethod
    def score(
        self, examples: Sequence[Any], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        """The metrics; `rows` are what `encode` made of `examples`, `answers` one for each row."""

    def right_answers(self, rows: Sequence[Features]) -> list[Any] | None:
        """What `answers` of a model that is always right would be; None where rows don't say it."""
        return None

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        """For each row the logits, float32 [distributions, classes], that a teacher and a student compare.

        Raises TrainingError where a task has none.
        """
        raise TrainingError(f"a {self.name} model can't be distilled")

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        """For each class of a student with `config` the teacher's; None where classes aren't labels.

        Raises TrainingError for a teacher of other labels.
        """
        return None

    def before_training(self, data: DataSet, config: Config, processes: Processes) -> None:
        """Called once with the training data, before the first step: to add to its rows what takes a model."""
        return None

    def soft_rows_are_per_token(self) -> bool:
        """Whether `soft_rows` depend on the tokens, so that teacher and student need the same tokenizer."""
        return False


def pad_rows(rows: Sequence[Mapping[str, Any]], pad: int, names: Mapping[str, int] | None = None) -> Batch:
    """MODEL_INPUTS as int64 [rows, longest], and per-token values `names`, each padded with its own number."""
    fillers = {"input_ids": pad, "token_type_ids": 0, **(names or {})}
    lengths = [len(row["input_ids"]) for row in rows]
    batch = {name: torch.full((len(rows), max(lengths)), filler) for name, filler in fillers.items()}
    batch["attention_mask"] = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        batch["attention_mask"][at, :length] = 1
        for name in fillers:
            batch[name][at, :length] = torch.as_tensor(row[name])
    return batch


def model_inputs(model: Model, batch: Batch) -> Batch:
    """MODEL_INPUTS of a batch, but for those that the model has no use for."""
    wanted = inspect.signature(model.forward).parameters
    return {name: batch[name] for name in MODEL_INPUTS if name in wanted}


def token_types(encoded: Mapping[str, Any]) -> list[list[int]]:
    """The token types of texts that a tokenizer has encoded; zeros from one whose model has none."""
    types = encoded.get("token_type_ids")
    return [[0] * len(ids) for ids in encoded["input_ids"]] if types is None else types


def length_of(row: Features) -> int:
    """The tokens of a row; of a multiple choice, of all its choices."""
    ids = row["input_ids"]
    return sum(map(len, ids)) if len(ids) and isinstance(ids[0], list) else len(ids)
