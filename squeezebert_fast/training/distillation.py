"""Learning from a teacher: soft targets beside the labels (Hinton et al. 2015, arXiv 1503.02531).

    loss = alpha * T² * KL(softmax(teacher / T), softmax(student / T)) + (1 - alpha) * the task's own loss
         + hidden * mean over layers and tokens of |student - teacher|² / |teacher|²

For a regression the first term is the mean squared difference from the teacher's number. The teacher speaks
once, before the first step, each model on tokens of its own: where a task's answers belong to tokens, both must
have the same tokenizer. The last term compares hidden states (Jiao et al. 2019, arXiv 1909.10351), which are too
many to keep: with it, the teacher runs in each step, on the student's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import TrainingError
from squeezebert_fast.modeling import ModelOutput
from squeezebert_fast.pretrained import Config, Model, Tokenizer
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.training.inheritance import shared_words
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.settings import Softness
from squeezebert_fast.training.tasks.base import Batch, DataSet, Features, Task
from squeezebert_fast.training.teachers import Teacher

SOFT = "soft_targets"
COUNTS = "counts"
UNKNOWN_TO_TEACHER = -1
NOT_A_CLASS = -1e4
"""A logit that softmax makes 0, for the places that a shorter row of answers doesn't have."""


class Distilled(Task):
    """`task` with a teacher's soft targets in training. Evaluation is `task`'s own."""

    def __init__(self, task: Task, teacher: Teacher, softness: Softness) -> None:
        self.task, self.teacher, self.softness = task, teacher, softness
        self.name, self.model_class = task.name, task.model_class  # type: ignore[misc]
        self.needs_hidden_states = softness.hidden > 0
        self.own_loss = softness.alpha == softness.hidden == 0
        self.length = 0
        self.columns: list[int] | None = None
        self.words = torch.empty(0, dtype=torch.long)  # from the student's ids to the teacher's

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.task.metrics

    @property
    def reading(self) -> str:  # type: ignore[override]
        return self.task.reading

    def kept(self) -> dict[str, Any]:
        return self.task.kept()

    def read(self, source: str) -> list[Any]:
        return self.task.read(source)

    def encode(
        self,
        examples: Sequence[Any],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        if self.task.soft_rows_are_per_token() and not same_tokens(tokenizer, self.teacher.tokenizer):
            raise TrainingError(
                f"teacher and student cut texts into different tokens, and {self.name} answers belong to tokens; "
                "give the student the teacher's vocabulary"
            )
        if self.task.soft_rows_are_per_token() and max_length > self.teacher.length:
            raise TrainingError(
                f"max_length is {max_length}, but the teacher takes {self.teacher.length} tokens"
            )
        self.columns = self.task.soft_columns(
            self.teacher.labels, config
        )  # before a long wait for the teacher
        self.length = max_length
        if self.needs_hidden_states:
            self._check_hidden_states(tokenizer, config)
        return self.task.encode(examples, tokenizer, config, max_length)

    def _check_hidden_states(self, tokenizer: Tokenizer, config: Config) -> None:
        """Raise TrainingError unless the teacher's hidden states are as wide; learn how ids map to its own."""
        theirs = self.teacher.model.config.hidden_size
        if theirs != config.hidden_size:
            raise TrainingError(
                f"hidden states can't be compared: the teacher's have {theirs} channels, the student's "
                f"{config.hidden_size}"
            )
        words = shared_words(tokenizer, self.teacher.tokenizer)
        self.words = torch.full((len(tokenizer),), UNKNOWN_TO_TEACHER)
        self.words[list(words)] = torch.tensor(list(words.values()), dtype=torch.long)

    def before_training(self, data: DataSet, config: Config, processes: Processes) -> None:
        if self.needs_hidden_states:
            self._check_tokens(data, config)
            return
        said = self.teacher.soft_targets(self.task, data.examples, config, self.length, processes)
        if len(said) != len(data.rows):
            raise TrainingError("teacher and student cut the texts into different windows")
        for row, logits in zip(data.rows, said, strict=True):
            row[SOFT] = logits

    def _check_tokens(self, data: DataSet, config: Config) -> None:
        """Raise TrainingError for a text that the teacher would cut into other tokens."""
        length = min(self.length, self.teacher.length)
        theirs = self.task.encode(data.examples, self.teacher.tokenizer, config, length)
        words = self.words.tolist()
        ours = [[words[index] for index in flat(row["input_ids"])] for row in data.rows]
        if ours != [flat(row["input_ids"]) for row in theirs]:
            raise TrainingError(
                "hidden states can't be compared: teacher and student cut the texts into different tokens; give the "
                "student the teacher's vocabulary, or a part of it by --vocab-size"
            )

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        batch = self.task.collate(rows, pad, epoch)
        counts = self._counts(batch)
        if SOFT in rows[0]:
            batch[SOFT] = joined([row[SOFT] for row in rows])
        return {**batch, COUNTS: counts}

    def forward(self, model: Model, batch: Batch, *, hidden_states: bool = False) -> ModelOutput:
        return self.task.forward(model, batch, hidden_states=hidden_states)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        hard = self.task.loss(output, batch)
        states = output.get("hidden_states")
        if states is None and SOFT not in batch:  # an evaluation
            return hard
        student = joined(self.task.soft_rows(output, batch))
        if states is None:
            teacher, apart = batch[SOFT], hard.new_zeros(())
        else:
            said = self._said(batch)
            teacher = joined(self.task.soft_rows(said, batch))
            teacher = teacher if self.columns is None else teacher[:, self.columns]
            distances = hidden_distance(states, said["hidden_states"], batch["attention_mask"])
            apart = distances @ batch[COUNTS]
        soft = soft_loss(student, teacher, self.softness.temperature)
        # The mean over distributions, times what the task counts: a question has two of them.
        soft = soft * (batch[COUNTS].sum() / max(len(student), 1))
        alpha = self.softness.alpha
        return alpha * soft + (1 - alpha) * hard + self.softness.hidden * apart

    def _counts(self, batch: Batch) -> Tensor:
        """What the task counts in each row, so that the loss doesn't depend on how a batch is cut."""
        rows = len(batch["input_ids"])
        each = ({name: values[row : row + 1] for name, values in batch.items()} for row in range(rows))
        return torch.tensor([self.task.count(one) for one in each], dtype=torch.float32)

    @torch.no_grad()
    def _said(self, batch: Batch) -> ModelOutput:
        self.words = self.words.to(batch["input_ids"].device)
        theirs = {**batch, "input_ids": self.words[batch["input_ids"]]}
        return self.task.forward(self.teacher.model, theirs, hidden_states=True)

    def count(self, batch: Batch) -> int:
        return self.task.count(batch)

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return self.task.answers(output, batch)

    def score(
        self, examples: Sequence[Any], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        return self.task.score(examples, rows, answers)

    def right_answers(self, rows: Sequence[Features]) -> list[Any] | None:
        return self.task.right_answers(rows)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The sum over distributions of T² KL(teacher, student), or of the squared difference of single numbers.

    Both are logits, float32 [distributions, classes].
    """
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher, reduction="sum")
    probabilities = (teacher / temperature).softmax(-1)
    divergence = F.kl_div((student / temperature).log_softmax(-1), probabilities, reduction="sum")
    return divergence * temperature**2


def hidden_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """|student - teacher|² / |teacher|², for each row its mean over tokens and the student's layers: [rows].

    Both are hidden states as a model gives them, the embeddings' first; the student's layers are compared with the
    teacher's at even distances, the last one with the last. mask: 1 for tokens, 0 for padding, [rows, tokens], or
    [rows, choices, tokens] for states [rows * choices, tokens, channels].
    """
    layers, depth = len(student) - 1, len(teacher) - 1
    weights = mask.flatten(1) / mask.flatten(1).sum(1, keepdim=True)
    total = torch.zeros(len(mask), device=mask.device)
    for layer in range(1, layers + 1):
        ours, theirs = student[layer].float(), teacher[layer * depth // layers].float()
        apart = (ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp_min(1e-12)
        total = total + (apart.reshape(weights.shape) * weights).sum(1)
    return total / layers


def flat(ids: list[Any]) -> list[int]:
    """The ids of a row; of a multiple choice, of all its choices."""
    return [index for part in ids for index in part] if ids and isinstance(ids[0], list) else ids


def joined(rows: Sequence[Tensor]) -> Tensor:
    """Logits [distributions, classes] of all rows below each other, shorter ones filled up with NOT_A_CLASS."""
    widest = max(row.shape[-1] for row in rows)
    return torch.cat([F.pad(row, (0, widest - row.shape[-1]), value=NOT_A_CLASS) for row in rows])


def same_tokens(ours: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers cut every text into the same ids. Those of two libraries count as different."""
    if not isinstance(ours, SqueezeBertTokenizerFast) and not isinstance(other, SqueezeBertTokenizerFast):
        return _pipeline(ours) == _pipeline(other)
    if not (isinstance(ours, SqueezeBertTokenizerFast) and isinstance(other, SqueezeBertTokenizerFast)):
        return False
    fixed = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "never_split")
    return ours.get_vocab() == other.get_vocab() and all(
        getattr(ours, name) == getattr(other, name) for name in fixed
    )


def _pipeline(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer of transformers is made of, but for how it was last asked to cut and to pad."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in parts.items() if name not in ("truncation", "padding")}
