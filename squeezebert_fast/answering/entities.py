"""The entities of a text, or the labels of its tokens: what is asked of the model, in windows of a long text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from squeezebert_fast.answering.aggregation import Aggregation, Token
from squeezebert_fast.answering.base import FLOAT64, INT64, STRING, Answers, Row, Types
from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.answering.running import OF, Engine, Steps, Tokens
from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import SqueezeBertForTokenClassification
from squeezebert_fast.pretrained import Pretrained
from squeezebert_fast.tables.rows import Record


class Entities(Answers):
    """A list of what was found, in the order of the text.

    Each has entity_group (with `--aggregate none`, for a token, entity and index), score, word as the tokens spell it,
    and start and end, its characters in the text.
    """

    name = "token classification"
    head = SqueezeBertForTokenClassification
    takes = frozenset({"aggregate", "stride"})
    as_lists = True

    def __init__(self, options: AnswerOptions, stored: Pretrained) -> None:
        super().__init__(options, stored)
        self.aggregation: Aggregation | None = None

    @property
    def types(self) -> Types:
        spelled = {"word": STRING, "start": INT64, "end": INT64}
        if self.options.aggregate == "none":
            return {"entities": [{"entity": STRING, "score": FLOAT64, "index": INT64, **spelled}]}
        return {"entities": [{"entity_group": STRING, "score": FLOAT64, **spelled}]}

    def steps(self, engine: Engine) -> Steps:
        tokenizer = engine.tokenizer
        self.aggregation = Aggregation(tokenizer, self.labels, self.options.aggregate)
        room = engine.max_length - tokenizer.num_special_tokens_to_add(False)
        if room < 1:
            raise InputError(f"the maximum length is {engine.max_length}, which leaves no room for a text")
        overlap = min(self.stride, room - 1)

        def encode(records: Sequence[Record]) -> list[Tokens]:
            encoded = tokenizer(
                [record.text for record in records],
                truncation=True,
                max_length=engine.max_length,
                stride=overlap,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
            owners = encoded["overflow_to_sample_mapping"]
            rows: list[Tokens] = []
            for at, owner in enumerate(owners):
                window = 0 if not rows or rows[-1][OF] != owner else rows[-1]["window"] + 1
                row = {name: encoded[name][at] for name in encoded if name != "overflow_to_sample_mapping"}
                rows.append(row | {OF: owner, "window": window, "skipped": window * (room - overlap)})
            return rows

        def collate(rows: Sequence[Tokens]) -> Mapping[str, Tensor]:
            names = [name for name in MODEL_INPUTS if name in rows[0]]
            columns = {name: [row[name] for row in rows] for name in names}
            return tokenizer.pad(columns, return_tensors="pt")

        def forward(batch: Mapping[str, Tensor]) -> Tensor:
            return engine.model(**engine.inputs(batch)).logits.float().softmax(-1)

        return Steps(encode, collate, forward)

    def answer(self, record: Record, rows: Sequence[tuple[Tokens, Tensor]]) -> Row:
        assert self.aggregation is not None  # there are rows, so there were steps
        found: list[Row] = []
        for row, scores in rows:
            found += self.aggregation.entities(record.text, _tokens(row, scores))
        return {"entities": found if len(rows) == 1 else _without_overlap(found)}


MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def _tokens(row: Tokens, scores: Tensor) -> list[Token]:
    each = zip(row["input_ids"], row["offset_mapping"], row["special_tokens_mask"], scores, strict=False)
    return [
        Token(index, row["skipped"] + at, start, end, values)
        for at, (index, (start, end), special, values) in enumerate(each)
        if not special
    ]


def _without_overlap(found: Sequence[Row]) -> list[Row]:
    """Of entities that share characters, which neighbouring windows found, the longest, or the one of a better score.

    As transformers' pipeline chooses.
    """
    kept: list[Row] = []
    for entity in sorted(found, key=lambda each: each["start"]):
        if kept and kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept[-1] = max(kept[-1], entity, key=lambda each: (each["end"] - each["start"], each["score"]))
        else:
            kept.append(entity)
    return kept
