"""Classification of words, named entities above all: CoNLL files with a word and its tag on a line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForTokenClassification
from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.training import metrics
from squeezebert_fast.training.conll import TaggedSentence, read_conll
from squeezebert_fast.training.tagging import MIXED, OUTSIDE, PLAIN, Scheme, scheme_of
from squeezebert_fast.training.tasks.base import Batch, Features, Task, pad_rows, token_types
from squeezebert_fast.training.tasks.sequences import label_index, matching_labels, some_labels

logger = logging.getLogger("squeezebert_fast.training")


class TokenClassification(Task):
    """A tag for each word, given by its first token; what has none, or is cut off, counts as outside of every entity.

    The set of labels says in which scheme the tags are written: `tagging.scheme_of`.
    """

    name = "token-classification"
    model_class = SqueezeBertForTokenClassification
    reads_words = True
    metrics: tuple[str, ...] = ("f1", "precision", "recall", "accuracy")

    def __init__(self) -> None:
        self.labels: dict[int, str] = {}  # known once there is a configuration
        self.scheme = Scheme(PLAIN)

    def read(self, source: str) -> list[TaggedSentence]:
        return read_conll(source)

    def label_fields(self, examples: Sequence[TaggedSentence]) -> dict[str, Any]:
        tags = sorted(
            {tag for sentence in examples for tag in sentence.tags}, key=lambda tag: (tag != OUTSIDE, tag)
        )
        if len(tags) < 2:
            raise InputError(
                f"every tag of the training data is {tags[0]!r}, expected at least two different ones"
            )
        return {"id2label": dict(enumerate(tags)), "label2id": {tag: index for index, tag in enumerate(tags)}}

    def encode(
        self,
        examples: Sequence[TaggedSentence],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        self.labels = dict(config.id2label or {})
        self.scheme = scheme_of(self.labels.values())
        if self.scheme.is_plain:
            self.metrics = ("accuracy",)
        self.reading = f"tags are read as {self.scheme.name}" + (": accuracy" if self.scheme.is_plain else "")
        self._warn_of_what_is_lost(examples)
        encoded = tokenizer(
            [sentence.words for sentence in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=max_length,
        )
        types = token_types(encoded)
        rows = []
        for at, sentence in enumerate(examples):
            ids = [
                label_index(tag, config, place)
                for tag, place in zip(sentence.tags, sentence.places, strict=True)
            ]
            words = encoded.word_ids(at)
            firsts = [
                word is not None and word != before
                for word, before in zip(words, [None, *words], strict=False)
            ]
            rows.append(
                {
                    "input_ids": encoded["input_ids"][at],
                    "token_type_ids": types[at],
                    "labels": [
                        ids[word] if first and word is not None else IGNORED_LABEL
                        for word, first in zip(words, firsts, strict=True)
                    ],
                    "words": [word for word, first in zip(words, firsts, strict=True) if first],
                }
            )
        return rows

    def _warn_of_what_is_lost(self, examples: Sequence[TaggedSentence]) -> None:
        if self.scheme.others:
            others = some_labels(self.scheme.others)
            logger.warning("the labels %s have no scheme's form and count as outside of every entity", others)
        if self.scheme.name == MIXED:
            logger.warning("the labels %s mix several schemes", some_labels(self.labels.values()))
        stray = 0 if self.scheme.is_plain else sum(self.scheme.stray_words(each.tags) for each in examples)
        if stray:
            logger.warning(
                "%d words of the data have a tag that makes no whole entity in %s, which f1 doesn't count",
                stray,
                self.scheme.name,
            )

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        return pad_rows(rows, pad, {"labels": IGNORED_LABEL})

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        logits = output["logits"].float()
        return F.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED_LABEL).sum())

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        best, labels = output["logits"].argmax(-1).cpu(), batch["labels"].cpu()
        return [ids[kept].tolist() for ids, kept in zip(best, labels != IGNORED_LABEL, strict=True)]

    def score(
        self, examples: Sequence[TaggedSentence], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        predicted = []
        for sentence, row, ids in zip(examples, rows, answers, strict=True):
            # Of plain tags "O" may be one like any other, and what wasn't seen isn't right.
            tags = ["" if self.scheme.is_plain else OUTSIDE] * len(sentence.words)
            for word, index in zip(row["words"], ids, strict=True):
                tags[word] = self.labels[index]
            predicted.append(tags)
        return metrics.tagging(predicted, [sentence.tags for sentence in examples], self.scheme)

    def right_answers(self, rows: Sequence[Features]) -> list[Any]:
        return [[label for label in row["labels"] if label != IGNORED_LABEL] for row in rows]

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        kept = batch["labels"] != IGNORED_LABEL
        return list(output["logits"].float()[kept].split(kept.sum(1).tolist()))

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        return matching_labels(teacher_labels, config)

    def soft_rows_are_per_token(self) -> bool:
        return True
