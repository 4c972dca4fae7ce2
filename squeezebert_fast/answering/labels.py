"""A label for a text or a pair, several labels, or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from squeezebert_fast.answering.base import FLOAT32, STRING, Answers, Row, Types, ranked
from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.answering.running import Engine, Steps, Tokens, of_whole_texts
from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.loading import cross_encoder
from squeezebert_fast.modeling import SqueezeBertForSequenceClassification
from squeezebert_fast.pretrained import Pretrained
from squeezebert_fast.tables.rows import Record


class Labels(Answers):
    """What a sequence classifier says, which its configuration decides.

    regression, or one label alone: its value. multi_label_classification: the labels whose score, a sigmoid, is at
    least the threshold, the best first. Else the best label, and its softmax. A CrossEncoder's values are what its own
    activation makes of them, and its labels' scores too, unless that leaves them as they are; its texts begin with its
    prompt.
    """

    name = "sequence classification"
    head = SqueezeBertForSequenceClassification
    takes = frozenset({"top_k", "all_scores", "threshold", "prompt_name"})
    takes_pairs = True

    def __init__(self, options: AnswerOptions, stored: Pretrained) -> None:
        super().__init__(options, stored)
        config = self.config
        self.is_value = config.problem_type == "regression" or config.num_labels == 1
        self.has_several = not self.is_value and config.problem_type == "multi_label_classification"
        self.as_lists = self.has_several
        softmax = partial(torch.softmax, dim=-1)
        otherwise = softmax if not (self.is_value or self.has_several) else torch.sigmoid
        said = cross_encoder.activation(stored.files, trained_since=bool(stored.trained_with.task))
        if self.is_value:
            self.activation = said or (lambda logits: logits)
        else:
            self.activation = otherwise if said in (None, cross_encoder.IDENTITY) else said
        self._check(options)
        self.prompt = cross_encoder.prompts(stored.files).chosen(options.prompt_name, stored.name)

    def _check(self, options: AnswerOptions) -> None:
        if self.is_value:
            options.check(frozenset({"prompt_name"}), f"regression, which {self.model_name} is for")
        elif self.has_several:
            options.check(self.takes - {"top_k"}, f"{self.model_name}, whose texts have several labels")
        else:
            options.check(self.takes - {"threshold"}, f"{self.model_name}, whose texts have one label each")
        if options.top_k > len(self.labels):
            raise InputError(
                f"--top-k is {options.top_k}, but {self.model_name} has {counted(len(self.labels), 'label')}"
            )

    @property
    def types(self) -> Types:
        if self.is_value:
            return dict.fromkeys(self._values(), FLOAT32)
        types: Types = {"labels": [STRING], "scores": [FLOAT32]}
        if not self.has_several:
            places = range(1, self.options.top_k + 1)
            named = [{f"label{ranked(at)}": STRING, f"score{ranked(at)}": FLOAT32} for at in places]
            types = {name: each for best in named for name, each in best.items()}
        every = self.labels if self.options.all_scores else ()
        return types | {f"score[{label}]": FLOAT32 for label in every}

    def steps(self, engine: Engine) -> Steps:
        def forward(batch: Mapping[str, Tensor]) -> Tensor:
            return self.activation(engine.model(**engine.inputs(batch)).logits.float())

        return of_whole_texts(engine, forward, self.prompt)

    def answer(self, record: Record, rows: Sequence[tuple[Tokens, Tensor]]) -> Row:
        ((_, scores),) = rows
        if self.is_value:
            return dict(zip(self._values(), scores.tolist(), strict=True))
        best = scores.sort(descending=True, stable=True)
        order = list(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        if self.has_several:
            kept = [(score, self.labels[index]) for score, index in order if score >= self.options.threshold]
            row: Row = {"labels": [label for _, label in kept], "scores": [score for score, _ in kept]}
        else:
            row = {}
            for place, (score, index) in enumerate(order[: self.options.top_k], 1):
                row |= {f"label{ranked(place)}": self.labels[index], f"score{ranked(place)}": score}
        if self.options.all_scores:
            row |= {
                f"score[{label}]": score for label, score in zip(self.labels, scores.tolist(), strict=True)
            }
        return row

    def _values(self) -> list[str]:
        return ["value"] if len(self.labels) == 1 else [f"value[{label}]" for label in self.labels]
