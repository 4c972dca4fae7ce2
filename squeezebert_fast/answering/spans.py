"""The spans of a context that answer a question, scored as transformers 4's QuestionAnsweringPipeline scores them.

A span's score is the product of two softmaxes over the tokens of its window that may be an answer's and [CLS]: that it
starts at its first token, and that it ends at its last. Spans are then widened to whole words. One text found several
times, as by windows that overlap, is one answer with the sum of their scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from squeezebert_fast.answering.base import FLOAT64, INT64, STRING, Answers, Row, Types, ranked
from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.answering.running import OF, Engine, Steps, Tokens
from squeezebert_fast.modeling import SqueezeBertForQuestionAnswering
from squeezebert_fast.pretrained import Pretrained
from squeezebert_fast.tables.rows import Record
from squeezebert_fast.training.evaluation import FIXED_EPOCH
from squeezebert_fast.training.tasks.questions import HIDDEN, LONGEST_ANSWER, Question, QuestionAnswering

TYPES = {"answer": STRING, "score": FLOAT64, "start": INT64, "end": INT64}


class Spans(Answers):
    """The best answers, each with its score and its characters in the context.

    Where there may be none, the empty answer stands among them with the least score that any window gives to [CLS].
    """

    name = "question answering"
    head = SqueezeBertForQuestionAnswering
    takes = frozenset({"top_k", "stride", "handle_impossible_answer"})
    default_columns = ("question", "context")
    takes_pairs = True

    def __init__(self, options: AnswerOptions, stored: Pretrained) -> None:
        super().__init__(options, stored)
        self.task = QuestionAnswering(self.stride)

    @property
    def types(self) -> Types:
        places = range(1, self.options.top_k + 1)
        return {f"{name}{ranked(place)}": each for place in places for name, each in TYPES.items()}

    def steps(self, engine: Engine) -> Steps:
        pad = engine.tokenizer.pad_token_id or 0

        def encode(records: Sequence[Record]) -> list[Tokens]:
            questions = [Question("", record.text, record.pair or "", (), 0) for record in records]
            rows = self.task.encode(questions, engine.tokenizer, self.config, engine.max_length)
            return [row | {OF: row["example"]} for row in rows]

        def collate(rows: Sequence[Tokens]) -> Mapping[str, Tensor]:
            return self.task.collate(rows, pad, FIXED_EPOCH)

        def forward(batch: Mapping[str, Tensor]) -> Tensor:
            output = engine.model(**engine.inputs(batch))
            return torch.stack([output.start_logits.float(), output.end_logits.float()], 1)

        return Steps(encode, collate, forward)

    def asked(self, record: Record) -> Row:
        return {"question": record.text}

    def answer(self, record: Record, rows: Sequence[tuple[Tokens, Tensor]]) -> Row:
        context = record.pair or ""
        answers: dict[str, Row] = {}
        nothing = float("inf")
        for row, logits in rows:
            silence, spans = _spans(row, logits, 2 * self.options.top_k + 10)
            nothing = min(nothing, silence)
            for score, start, end in spans:
                text = context[start:end]
                found = answers.setdefault(
                    text.lower(), {"answer": text, "score": 0.0, "start": start, "end": end}
                )
                found["score"] += score
        best = list(answers.values())
        if self.options.handle_impossible_answer:
            best.append({"answer": "", "score": nothing, "start": 0, "end": 0})
        best.sort(key=lambda each: -each["score"])
        result = self.nothing()
        for place, each in enumerate(best[: self.options.top_k], 1):
            result |= {f"{name}{ranked(place)}": each[name] for name in TYPES}
        return result


def _spans(row: Tokens, logits: Tensor, count: int) -> tuple[float, list[tuple[float, int, int]]]:
    """A window's score of no answer, and the scores of its best spans with their first and last characters.

    logits: of starts and of ends, [2, tokens or more].
    """
    inside = torch.tensor(row["inside"], dtype=torch.bool)
    possible = inside.clone()
    possible[0] = True  # [CLS]
    starts, ends = torch.where(possible, logits[:, : len(inside)], HIDDEN).softmax(-1)
    silence = float(starts[0] * ends[0])
    scores = (starts[:, None] * ends).triu().tril(LONGEST_ANSWER - 1)
    scores = torch.where(inside[:, None] & inside, scores, 0)
    best = scores.flatten().topk(min(count, scores.numel()))
    found = []
    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        first, last = divmod(place, len(inside))
        if inside[first] and inside[last] and first <= last < first + LONGEST_ANSWER:
            first, last = _whole_words(row, first, last)
            found.append((score, row["offsets"][first][0], row["offsets"][last][1]))
    return silence, found


def _whole_words(row: Tokens, first: int, last: int) -> tuple[int, int]:
    """The tokens of a span and the others of the words that it begins and ends in."""
    words, inside = row["words"], row["inside"]
    while first > 0 and inside[first - 1] and words[first - 1] == words[first]:
        first -= 1
    while last + 1 < len(words) and inside[last + 1] and words[last + 1] == words[last]:
        last += 1
    return first, last
