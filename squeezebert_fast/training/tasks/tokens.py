"""Classification of words, named entities above all: CoNLL files with a word and its tag on a line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForTokenClassification
from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.training import labels, metrics
from squeezebert_fast.training.conll import TaggedSentence, read_conll
from squeezebert_fast.training.file_kinds import CONLL, SQUAD, TABLE, kind_of
from squeezebert_fast.training.tagging import MIXED, OUTSIDE, PLAIN, Scheme, scheme_of
from squeezebert_fast.training.tasks.base import Batch, Features, pad_rows, token_types
from squeezebert_fast.training.tasks.judged import Answer, JudgedTask, Judgement, Measured, Tables

logger = logging.getLogger("squeezebert_fast.training")


class TokenClassification(JudgedTask):
    """A tag for each word, given by its first token; what has none, or is cut off, counts as outside of every entity.

    The set of labels says in which scheme the tags are written: `tagging.scheme_of`.
    """

    name = "token-classification"
    kind = CONLL
    model_class = SqueezeBertForTokenClassification
    reads_words = True
    has_classes = True
    metrics: tuple[str, ...] = ("f1", "precision", "recall", "accuracy")

    def __init__(self, labels: Sequence[str] = ()) -> None:
        """labels: the names that `labels.meet` is given."""
        self.labels = labels
        self.names: Sequence[str] = ()  # these three are known once there is a configuration
        self.ids: dict[str, int] = {}
        self.scheme = Scheme(PLAIN)
        self.numbers = ""  # how they were understood, where data has them for tags

    def examples_of(self, source: str) -> list[TaggedSentence]:
        if kind_of(source) in (TABLE, SQUAD):  # whose lines may well have two fields
            raise InputError(f"{source} has no word and its tag on a line")
        return read_conll(source)

    def label_fields(
        self, examples: Sequence[TaggedSentence], known: Sequence[str] = (), *, teacher: bool = False
    ) -> dict[str, Any]:
        found = _found(examples)
        tags = sorted(found, key=lambda tag: (tag != OUTSIDE, tag))
        if len(tags) < 2:
            raise InputError(
                f"every tag of the training data is {tags[0]!r}, expected at least two different ones"
            )
        return labels.fields(labels.names_for(found, tags, self.labels, known, teacher=teacher))

    def encode(
        self,
        examples: Sequence[TaggedSentence],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        meeting = labels.meet(_found(examples), labels.in_order(config.id2label), self.labels)
        self.names = meeting.names
        self.ids |= meeting.ids
        self.scheme = scheme_of(self.names)
        if self.scheme.is_plain:
            self.metrics = ("accuracy",)
        self.numbers = meeting.reading or self.numbers
        scheme = f"tags are read as {self.scheme.name}" + (": accuracy" if self.scheme.is_plain else "")
        self.reading = f"{self.numbers}; {scheme}" if self.numbers else scheme
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
            ids = [meeting.ids[tag] for tag in sentence.tags]
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

    def tags_of(self, sentence: TaggedSentence) -> list[str]:
        """A sentence's tags by the model's names for them."""
        return [self.names[self.ids[tag]] for tag in sentence.tags]

    def _warn_of_what_is_lost(self, examples: Sequence[TaggedSentence]) -> None:
        if self.scheme.others:
            others = labels.some_labels(self.scheme.others)
            logger.warning("the labels %s have no scheme's form and count as outside of every entity", others)
        if self.scheme.name == MIXED:
            logger.warning("the labels %s mix several schemes", labels.some_labels(self.names))
        stray = (
            0
            if self.scheme.is_plain
            else sum(self.scheme.stray_words(self.tags_of(each)) for each in examples)
        )
        if stray:
            logger.warning(
                "%s of the data with a tag that makes no whole entity in %s, which f1 doesn't count",
                counted(stray, "word"),
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
        return metrics.tagging(
            self._predicted(examples, rows, answers), map(self.tags_of, examples), self.scheme
        )

    def _predicted(
        self, examples: Sequence[TaggedSentence], rows: Sequence[Features], answers: Sequence[Any]
    ) -> list[list[str]]:
        """For each sentence the tag of each word."""
        predicted = []
        for sentence, row, ids in zip(examples, rows, answers, strict=True):
            # Of plain tags "O" may be one like any other, and what wasn't seen isn't right.
            tags = ["" if self.scheme.is_plain else OUTSIDE] * len(sentence.words)
            for word, index in zip(row["words"], ids, strict=True):
                tags[word] = self.names[index]
            predicted.append(tags)
        return predicted

    def measured(self, output: ModelOutput, batch: Batch, answers: Sequence[Any]) -> list[Measured]:
        logs, labels = output["logits"].float().log_softmax(-1), batch["labels"]
        kept = labels != IGNORED_LABEL
        losses = -logs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * kept
        sure = logs.max(-1).values.exp()
        return [
            Measured(loss, each[seen].tolist())
            for loss, each, seen in zip(losses.sum(1).tolist(), sure.cpu(), kept.cpu(), strict=True)
        ]

    def judge(
        self,
        examples: Sequence[TaggedSentence],
        rows: Sequence[Features],
        answers: Sequence[Any],
        measured: Sequence[Measured],
    ) -> list[Judgement]:
        """A sentence is right if all of its tags are, and as sure as the least sure of them."""
        judgements = []
        predicted = self._predicted(examples, rows, answers)
        for sentence, tags, row, each in zip(examples, predicted, rows, measured, strict=True):
            labels_here = self.tags_of(sentence)
            said = [
                Answer(sure, tags[word] == labels_here[word])
                for word, sure in zip(row["words"], each.sure, strict=True)
            ]
            score, right = min(each.sure, default=0.0), tags == labels_here
            shown = {"words": sentence.words}
            judgements.append(Judgement(shown, labels_here, tags, score, each.loss, right, said))
        return judgements

    def tables(
        self, examples: Sequence[TaggedSentence], rows: Sequence[Features], answers: Sequence[Any]
    ) -> Tables | None:
        """Types of entities, and which words were taken for parts of which; of plain tags the tags themselves."""
        predicted, actual = (
            self._predicted(examples, rows, answers),
            [self.tags_of(each) for each in examples],
        )
        words = [(self.scheme.kind(tag) for tags in each for tag in tags) for each in (predicted, actual)]
        pairs = list(zip(*words, strict=True))
        names = sorted({kind for pair in pairs for kind in pair}, key=lambda kind: (kind != OUTSIDE, kind))
        index = {name: at for at, name in enumerate(names)}
        ids = [[index[kind] for kind in side] for side in zip(*pairs, strict=True)]
        confusion = metrics.Confusion(names, metrics.confused(ids[0], ids[1], len(names)))
        if self.scheme.is_plain:
            return Tables(confusion.by_class(), confusion)
        counts = metrics.entity_counts(predicted, actual, self.scheme)
        return Tables({kind: metrics.figures(*each) for kind, each in counts.items()}, confusion)

    def right_answers(self, rows: Sequence[Features]) -> list[Any]:
        return [[label for label in row["labels"] if label != IGNORED_LABEL] for row in rows]

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        kept = batch["labels"] != IGNORED_LABEL
        return list(output["logits"].float()[kept].split(kept.sum(1).tolist()))

    def soft_columns(self, teacher_labels: Mapping[int, str], config: Config) -> list[int] | None:
        return labels.matching(teacher_labels, config.id2label, self.labels)

    def soft_rows_are_per_token(self) -> bool:
        return True


def _found(examples: Sequence[TaggedSentence]) -> dict[str, str]:
    return labels.places_of(pair for each in examples for pair in zip(each.tags, each.places, strict=True))
