"""Learning from a teacher: soft targets beside the labels (Hinton et al. 2015, arXiv 1503.02531).

    loss = alpha * T² * KL(softmax(teacher / T), softmax(student / T)) + (1 - alpha) * the task's own loss

For a regression the first term is the mean squared difference from the teacher's number. The teacher speaks
once, before the first step, each model on tokens of its own: where a task's answers belong to tokens, both must
have the same tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import TrainingError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertPreTrainedModel
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.settings import Softness
from squeezebert_fast.training.tasks.base import Batch, DataSet, Features, Task
from squeezebert_fast.training.teachers import Teacher

SOFT = "soft_targets"
NOT_A_CLASS = -1e4
"""A logit that softmax makes 0, for the places that a shorter row of answers doesn't have."""
LAYER = re.compile(r"(.*encoder\.layers\.)(\d+)(\..*)")


class Distilled(Task):
    """`task` with a teacher's soft targets in training. Evaluation is `task`'s own."""

    def __init__(self, task: Task, teacher: Teacher, softness: Softness) -> None:
        self.task, self.teacher, self.softness = task, teacher, softness
        self.name, self.model_class = task.name, task.model_class  # type: ignore[misc]
        self.length = 0

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.task.metrics

    def read(self, source: str) -> list[Any]:
        return self.task.read(source)

    def encode(
        self,
        examples: Sequence[Any],
        tokenizer: SqueezeBertTokenizerFast,
        config: SqueezeBertConfig,
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
        self.task.soft_columns(self.teacher.labels, config)  # before a long wait for the teacher
        self.length = max_length
        return self.task.encode(examples, tokenizer, config, max_length)

    def before_training(self, data: DataSet, config: SqueezeBertConfig, processes: Processes) -> None:
        said = self.teacher.soft_targets(self.task, data.examples, config, self.length, processes)
        if len(said) != len(data.rows):
            raise TrainingError("teacher and student cut the texts into different windows")
        for row, logits in zip(data.rows, said, strict=True):
            row[SOFT] = logits

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        batch = self.task.collate(rows, pad, epoch)
        if SOFT in rows[0]:
            batch[SOFT] = joined([row[SOFT] for row in rows])
        return batch

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        hard = self.task.loss(output, batch)
        if SOFT not in batch:
            return hard
        student = joined(self.task.soft_rows(output, batch))
        soft = soft_loss(student, batch[SOFT], self.softness.temperature)
        # The mean over distributions, times what the task counts: a question has two of them.
        soft = soft * (self.task.count(batch) / max(len(student), 1))
        return self.softness.alpha * soft + (1 - self.softness.alpha) * hard

    def count(self, batch: Batch) -> int:
        return self.task.count(batch)

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        return self.task.answers(output, batch)

    def score(
        self, examples: Sequence[Any], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        return self.task.score(examples, rows, answers)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The sum over distributions of T² KL(teacher, student), or of the squared difference of single numbers.

    Both are logits, float32 [distributions, classes].
    """
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher, reduction="sum")
    probabilities = (teacher / temperature).softmax(-1)
    divergence = F.kl_div((student / temperature).log_softmax(-1), probabilities, reduction="sum")
    return divergence * temperature**2


def joined(rows: Sequence[Tensor]) -> Tensor:
    """Logits [distributions, classes] of all rows below each other, shorter ones filled up with NOT_A_CLASS."""
    widest = max(row.shape[-1] for row in rows)
    return torch.cat([F.pad(row, (0, widest - row.shape[-1]), value=NOT_A_CLASS) for row in rows])


def same_tokens(ours: SqueezeBertTokenizerFast, other: Any) -> bool:
    """Whether two tokenizers cut every text into the same ids."""
    if not isinstance(other, SqueezeBertTokenizerFast):
        return False
    fixed = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "never_split")
    return ours.get_vocab() == other.get_vocab() and all(
        getattr(ours, name) == getattr(other, name) for name in fixed
    )


@torch.no_grad()
def copy_from_teacher(student: SqueezeBertPreTrainedModel, teacher: torch.nn.Module, *, words: bool) -> int:
    """Start a student with what has the same name and shape in the teacher; returns how many numbers that was.

    Its layers get the teacher's at even distances, the last one the last. words: whether the vocabularies are
    the same. Heads stay as they are: their labels may be in another order.
    """
    theirs = dict(teacher.named_parameters())
    depth = len({match[2] for name in theirs if (match := LAYER.match(name))})
    layers = student.config.num_hidden_layers
    copied = 0
    for name, parameter in student.named_parameters():
        if match := LAYER.match(name):
            source = (
                f"{match[1]}{(int(match[2]) + 1) * depth // layers - 1}{match[3]}" if depth >= layers else ""
            )
        elif ".embeddings." in name and (words or "word_embeddings" not in name):
            source = name
        else:
            continue
        if source in theirs and theirs[source].shape == parameter.shape and not theirs[source].is_meta:
            parameter.copy_(theirs[source])
            copied += parameter.numel()
    return copied
