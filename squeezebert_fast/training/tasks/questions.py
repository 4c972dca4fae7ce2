"""Question answering by spans: SQuAD files, v1.1 or v2.0, long paragraphs cut into windows that overlap.

A question's rows are the windows of its paragraph. An answer's tokens are those that share a character with it:
what no token has, such as whitespace and zero-width characters at its edges, changes nothing. A window's target is
their first and last; [CLS], no answer, where the window's border cuts some of them off. The answer to a question is
the best span of any of its windows. Where a file has questions without an answer (v2.0), the answer is nothing if
[CLS] is better than that span in every window.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForQuestionAnswering
from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.trained_with import DEFAULT_STRIDE
from squeezebert_fast.training import metrics
from squeezebert_fast.training.file_kinds import SQUAD
from squeezebert_fast.training.squad import Question, read_squad
from squeezebert_fast.training.tasks.base import Batch, Features, pad_rows, token_types
from squeezebert_fast.training.tasks.judged import Answer, JudgedTask, Judgement, Measured

logger = logging.getLogger("squeezebert_fast.training")

LONGEST_ANSWER = 30  # tokens
LONGEST_QUESTION = 64  # tokens; a longer one is cut, to leave room for the paragraph
NOTHING = (0, 0)
"""The target of a window without the answer: [CLS]."""

HIDDEN = -1e4
"""The logit of a token that is no place for an answer: finite, so that a row of nothing else has a loss."""


class QuestionAnswering(JudgedTask):
    """The span of a paragraph that answers a question.

    stride: tokens that a paragraph's windows overlap by; less where a window has no room for so many.
    """

    name = "question-answering"
    kind = SQUAD
    model_class = SqueezeBertForQuestionAnswering
    metrics = ("f1", "exact_match")

    def __init__(self, stride: int = DEFAULT_STRIDE) -> None:
        self.stride = stride

    def kept(self) -> dict[str, Any]:
        return {"stride": self.stride}

    def examples_of(self, source: str) -> list[Question]:
        return read_squad(source)

    def label_fields(
        self, examples: Sequence[Question], known: Sequence[str] = (), *, teacher: bool = False
    ) -> dict[str, Any]:
        return {"num_labels": 2}  # an answer's start and end

    def encode(
        self,
        examples: Sequence[Question],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        if max_length < 8:
            raise InputError(f"the maximum length is {max_length}, too short for a question and a window")
        asked = [
            tokenizer(q.question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            for q in examples
        ]
        rows = []
        unreachable = []
        for at, (example, question) in enumerate(zip(examples, asked, strict=True)):
            longest = min(LONGEST_QUESTION, (max_length - 3) // 2)
            text = example.question
            if len(question["input_ids"]) > longest:
                text = text[: question["offset_mapping"][longest - 1][1]]
            room = max_length - 3 - min(len(question["input_ids"]), longest)
            overlap = min(self.stride, room // 2)
            encoded = tokenizer(
                [text],
                [example.context],
                truncation="only_second",
                max_length=max_length,
                stride=overlap,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            windows = range(len(encoded["input_ids"]))
            types = token_types(encoded)
            insides = [[sequence == 1 for sequence in encoded.sequence_ids(window)] for window in windows]
            offsets = encoded["offset_mapping"]
            onward = 1 if tokenizer.truncation_side == "right" else -1
            targets = _targets(example, offsets[::onward], insides[::onward], overlap)[::onward]
            if targets[0][0] == IGNORED_LABEL:
                unreachable.append(example)
            for window, inside, (start, end) in zip(windows, insides, targets, strict=True):
                rows.append(
                    {
                        "input_ids": encoded["input_ids"][window],
                        "token_type_ids": types[window],
                        "inside": [int(each) for each in inside],
                        "offsets": offsets[window],
                        "words": encoded.word_ids(window),
                        "start": start,
                        "end": end,
                        "example": at,
                    }
                )
        if unreachable:
            logger.warning(
                "no token is part of the answers to %d of %s, the first is %s: they don't train",
                len(unreachable),
                counted(len(examples), "question"),
                unreachable[0].id,
            )
        return rows

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        return {
            **pad_rows(rows, pad, {"inside": 0}),
            "starts": torch.tensor([row["start"] for row in rows]),
            "ends": torch.tensor([row["end"] for row in rows]),
        }

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        start, end = _logits(output, batch)
        return (
            F.cross_entropy(start, batch["starts"], ignore_index=IGNORED_LABEL, reduction="sum")
            + F.cross_entropy(end, batch["ends"], ignore_index=IGNORED_LABEL, reduction="sum")
        ) / 2

    def count(self, batch: Batch) -> int:
        return int((batch["starts"] != IGNORED_LABEL).sum())

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        start, end = _logits(output, batch)
        tokens = start.shape[1]
        # Every span at once: [rows, starts, ends], those that end before they start or are too long left out.
        allowed = (
            torch.ones(tokens, tokens, dtype=torch.bool, device=start.device).triu().tril(LONGEST_ANSWER - 1)
        )
        inside = batch["inside"].bool()
        allowed = allowed & inside[:, :, None] & inside[:, None, :]
        scores = torch.where(allowed, start[:, :, None] + end[:, None, :], -torch.inf).flatten(1)
        best, nothing = scores.max(-1), (start + end)[:, 0]
        each = zip(best.values.tolist(), best.indices.tolist(), nothing.tolist(), strict=True)
        return [(score, index // tokens, index % tokens, silence) for score, index, silence in each]

    def score(
        self, examples: Sequence[Question], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        said = [text for text, _ in self._said(examples, rows, answers)]
        return metrics.answers(said, [example.answers for example in examples])

    def _said(
        self, examples: Sequence[Question], rows: Sequence[Features], answers: Sequence[Any]
    ) -> list[tuple[str, int]]:
        """The answer to each question, and the row that it is from."""
        best = [(-float("inf"), "", -1)] * len(examples)
        quietest = [-1] * len(examples)
        silences = [float("inf") if any(not e.answers for e in examples) else -float("inf")] * len(examples)
        for place, (row, (score, start, end, silence)) in enumerate(zip(rows, answers, strict=True)):
            at = row["example"]
            if silence < silences[at]:
                silences[at], quietest[at] = silence, place
            if best[at][2] < 0:
                best[at] = (*best[at][:2], place)
            if score > best[at][0]:
                first, last = row["offsets"][start][0], row["offsets"][end][1]
                best[at] = (score, _text(examples[at].context, first, last), place)
        return [
            ("", quiet) if silence > score else (text, place)
            for (score, text, place), silence, quiet in zip(best, silences, quietest, strict=True)
        ]

    def measured(self, output: ModelOutput, batch: Batch, answers: Sequence[Any]) -> list[Measured]:
        """`sure` has the probability of the best span of a row, and that of none."""
        logs = [each.log_softmax(-1) for each in _logits(output, batch)]
        starts, ends = (batch[name].clamp(min=0)[:, None] for name in ("starts", "ends"))
        kept = batch["starts"] != IGNORED_LABEL
        losses = -(logs[0].gather(1, starts) + logs[1].gather(1, ends))[:, 0] / 2 * kept
        found = []
        for at, (loss, (_, start, end, _)) in enumerate(zip(losses.tolist(), answers, strict=True)):
            spans = [float((logs[0][at, a] + logs[1][at, b]).exp()) for a, b in ((start, end), NOTHING)]
            found.append(Measured(loss, spans))
        return found

    def judge(
        self,
        examples: Sequence[Question],
        rows: Sequence[Features],
        answers: Sequence[Any],
        measured: Sequence[Measured],
    ) -> list[Judgement]:
        """A question's loss is the mean of its windows'; its score is the answer's probability in its own window."""
        losses: list[list[float]] = [[] for _ in examples]
        for row, each in zip(rows, measured, strict=True):
            losses[row["example"]].append(each.loss)
        judgements = []
        for example, mine, (text, place) in zip(
            examples, losses, self._said(examples, rows, answers), strict=True
        ):
            score = measured[place].sure[0 if text else 1]
            right = metrics.answers([text], [example.answers])["exact_match"] == 1
            loss, shown = sum(mine) / len(mine), {"id": example.id, "question": example.question}
            said = (Answer(score, right),)
            judgements.append(Judgement(shown, list(example.answers), text, score, loss, right, said))
        return judgements

    def soft_rows(self, output: ModelOutput, batch: Batch) -> list[Tensor]:
        kept = batch["attention_mask"].sum(1).tolist()
        both = torch.stack(_logits(output, batch), 1)
        return [row[:, :length] for row, length in zip(both, kept, strict=True)]

    def soft_rows_are_per_token(self) -> bool:
        return True


def _targets(
    example: Question,
    offsets: Sequence[Sequence[tuple[int, int]]],
    insides: Sequence[Sequence[bool]],
    overlap: int,
) -> list[tuple[int, int]]:
    """For each window the first and last token of the answer, or NOTHING where it isn't whole in there.

    offsets, insides: of each token of each window, its characters and whether it is the paragraph's; the windows as
    they follow one another in it. overlap: tokens that a window shares with the one before.
    IGNORED_LABEL for both where the answer has no token in any window.
    """
    if not example.answers:
        return [NOTHING] * len(offsets)
    found, tokens = [], 0
    for window, (spans, inside) in enumerate(zip(offsets, insides, strict=True)):
        begin = inside.index(True) if True in inside else len(inside)
        covered = [
            at
            for at, ((start, end), here) in enumerate(zip(spans, inside, strict=True))
            if here and start < example.end and end > example.start
        ]
        tokens += sum(window == 0 or at >= begin + overlap for at in covered)  # each token once
        found.append(covered)
    if not tokens:
        return [(IGNORED_LABEL, IGNORED_LABEL)] * len(offsets)
    return [(covered[0], covered[-1]) if len(covered) == tokens else NOTHING for covered in found]


def _text(context: str, start: int, end: int) -> str:
    """The characters of some tokens, with the accents that follow and that the tokenizer may have stripped."""
    while end < len(context) and unicodedata.category(context[end]) == "Mn":
        end += 1
    return context[start:end]


def _logits(output: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor]:
    """Start and end logits, float32 [rows, tokens], of the paragraph's tokens and [CLS] alone."""
    possible = batch["inside"].bool()
    possible = possible | (torch.arange(possible.shape[1], device=possible.device) == 0)
    start, end = (
        torch.where(possible, output[f"{name}_logits"].float(), HIDDEN) for name in ("start", "end")
    )
    return start, end
