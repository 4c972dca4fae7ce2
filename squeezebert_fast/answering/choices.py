"""The one of several second texts that goes with the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from squeezebert_fast.answering.base import FLOAT32, INT64, STRING, Answers, Row, Types, ranked
from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.answering.running import OF, Engine, Steps, Tokens
from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import SqueezeBertForMultipleChoice
from squeezebert_fast.pretrained import Pretrained
from squeezebert_fast.tables.rows import Record
from squeezebert_fast.training.evaluation import FIXED_EPOCH
from squeezebert_fast.training.tasks.base import length_of
from squeezebert_fast.training.tasks.choices import ChoiceColumns, MultipleChoice, Question


class Choices(Answers):
    """The best choice: its number from 0, its text and its softmax over all."""

    name = "multiple choice"
    head = SqueezeBertForMultipleChoice
    takes = frozenset({"top_k", "all_scores", "choice_columns"})

    def __init__(self, options: AnswerOptions, stored: Pretrained) -> None:
        super().__init__(options, stored)
        said = options.choice_columns or self.trained_with.choice_columns or ""
        self.names = tuple(part.strip() for part in said.split(",") if part.strip())
        self.task = MultipleChoice(ChoiceColumns(self.names))
        if options.top_k > len(self.names):
            raise InputError(f"--top-k is {options.top_k}, but there are {len(self.names)} choices")

    @property
    def choice_columns(self) -> Sequence[str]:
        return self.names

    @property
    def types(self) -> Types:
        types: Types = {}
        for suffix in map(ranked, range(1, self.options.top_k + 1)):
            types |= {f"choice{suffix}": INT64, f"answer{suffix}": STRING, f"score{suffix}": FLOAT32}
        every = self.names if self.options.all_scores else ()
        return types | {f"score[{name}]": FLOAT32 for name in every}

    def steps(self, engine: Engine) -> Steps:
        pad = engine.tokenizer.pad_token_id or 0

        def encode(records: Sequence[Record]) -> list[Tokens]:
            questions = [Question(record.text, record.choices, 0) for record in records]
            rows = self.task.encode(questions, engine.tokenizer, self.config, engine.max_length)
            return [row | {OF: at} for at, row in enumerate(rows)]

        def collate(rows: Sequence[Tokens]) -> Mapping[str, Tensor]:
            return self.task.collate(rows, pad, FIXED_EPOCH)

        def forward(batch: Mapping[str, Tensor]) -> Tensor:
            return engine.model(**engine.inputs(batch)).logits.float().softmax(-1)

        return Steps(encode, collate, forward, length_of)

    def answer(self, record: Record, rows: Sequence[tuple[Tokens, Tensor]]) -> Row:
        ((_, scores),) = rows
        best = scores.topk(self.options.top_k)
        row: Row = {}
        for place, (score, index) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True), 1
        ):
            suffix = ranked(place)
            row |= {
                f"choice{suffix}": index,
                f"answer{suffix}": record.choices[index],
                f"score{suffix}": score,
            }
        if self.options.all_scores:
            row |= {f"score[{name}]": score for name, score in zip(self.names, scores.tolist(), strict=True)}
        return row
