"""The target of an answer is the tokens inside its span, whatever stands at its edges."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from squeezebert_fast import SqueezeBertConfig, SqueezeBertTokenizerFast
from squeezebert_fast.modeling import QuestionAnsweringModelOutput, SqueezeBertForQuestionAnswering
from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.training import metrics
from squeezebert_fast.training.squad import Question
from squeezebert_fast.training.tasks.base import Features
from squeezebert_fast.training.tasks.questions import QuestionAnswering
from tests.cli_helpers import VOCAB, run
from tests.training_helpers import save_base

LENGTH = 32
EDGES = {
    "space": " ", "no-break space": "\u00a0", "ideographic space": "\u3000", "thin space": "\u2009",
    "line end": "\n", "next line": "\u0085", "line separator": "\u2028", "zero-width space": "\u200b",
    "byte order mark": "\ufeff", "left-to-right mark": "\u200e", "right-to-left isolate": "\u2067",
    "soft hyphen": "\u00ad", "control character": "\x07", "file separator": "\x1c", "NUL": "\0",
    "variation selector": "\ufe0f", "several": " \u200b\u00a0",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> SqueezeBertTokenizerFast:
    return SqueezeBertTokenizerFast(VOCAB)


def asked(context: str, answer: str) -> Question:
    return Question("7", "Who?", context, (answer,), context.index(answer))


def rows_of(question: Question, tokenizer: SqueezeBertTokenizerFast, length: int = LENGTH) -> list[Features]:
    return QuestionAnswering(stride=4).encode([question], tokenizer, SqueezeBertConfig(), length)


def target(row: Features, tokenizer: SqueezeBertTokenizerFast) -> list[str]:
    return tokenizer.convert_ids_to_tokens(row["input_ids"][row["start"] : row["end"] + 1])


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("side", ["before", "after", "both"])
def test_what_no_token_has_at_the_edge_of_an_answer_changes_nothing(
    edge: str, side: str, tokenizer: SqueezeBertTokenizerFast
) -> None:
    before, after = edge * (side != "after"), edge * (side != "before")
    answer = f"{before}Anna Smith{after}"
    context = f"He met {answer} in Paris."
    (row,) = rows_of(asked(context, answer), tokenizer)
    assert target(row, tokenizer) == ["anna", "smith"]


@pytest.mark.parametrize(
    ("context", "answer", "tokens"),
    [
        ("He met Jose\u0301 in Paris.", "Jose\u0301", ["jose"]),
        ("He met Jose\u0301 in Paris.", "Jose", ["jose"]),
        ("It says \u2764\ufe0f in Paris.", "\u2764\ufe0f", ["[UNK]"]),
        ("It cost $40bn in Paris.", "40", ["40"]),
        ("He met Annabelle in Paris.", "Anna", ["annabelle"]),
        ("Paris", "Paris", ["paris"]),
    ],
)
def test_an_answer_has_the_tokens_that_share_a_character_with_it(
    context: str, answer: str, tokens: list[str], tokenizer: SqueezeBertTokenizerFast
) -> None:
    (row,) = rows_of(asked(context, answer), tokenizer)
    assert target(row, tokenizer) == tokens


@pytest.mark.parametrize("answer", ["Anna Smith \u200b", "\uac01", "He met", "in Paris"])
@pytest.mark.parametrize("length", [8, 9, 10, 12, 16])
@pytest.mark.parametrize("side", ["left", "right"])
def test_only_a_border_through_an_answer_makes_a_window_point_at_cls(
    answer: str, length: int, side: str
) -> None:
    """A Hangul syllable is three tokens with the same place in the text, which a border may part too."""
    tokenizer = SqueezeBertTokenizerFast(VOCAB, truncation_side=side)
    context = "He met Anna Smith \u200band then \uac01 was there as well in Paris"
    question = asked(context, answer)
    rows = rows_of(question, tokenizer, length)
    assert len(rows) > 1
    whole = tokenizer.convert_ids_to_tokens(tokenizer(answer, add_special_tokens=False)["input_ids"])
    for row in rows:
        window = tokenizer.convert_ids_to_tokens(row["input_ids"])[:-1]
        holds = any(window[at : at + len(whole)] == whole for at in range(3, len(window)))
        assert target(row, tokenizer) == (whole if holds else ["[CLS]"])
    assert any(row["start"] for row in rows)


def test_an_answer_without_a_token_neither_trains_nor_counts(
    tokenizer: SqueezeBertTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    good = asked("He met Anna in Paris.", "Anna")
    lost = asked("He met Anna\ufe0f in Paris.", "\ufe0f")
    task = QuestionAnswering()
    with caplog.at_level(logging.WARNING, "squeezebert_fast"):
        rows = task.encode([good, lost, lost], tokenizer, SqueezeBertConfig(), LENGTH)
    assert "no token is part of the answers to 2 of 3 questions, the first is 7" in caplog.text
    assert [row["start"] == IGNORED_LABEL for row in rows] == [False, True, True]
    batch = task.collate(rows, 0, 0)
    torch.manual_seed(0)
    logits = [torch.randn(batch["input_ids"].shape) for _ in "se"]

    def loss(count: int) -> float:
        output = QuestionAnsweringModelOutput(start_logits=logits[0][:count], end_logits=logits[1][:count])
        return float(task.loss(output, {name: values[:count] for name, values in batch.items()}))

    assert loss(3) == loss(1) > 0
    assert task.count(batch) == 1


def test_the_text_of_an_answer_keeps_the_accents_that_its_tokens_lack(
    tokenizer: SqueezeBertTokenizerFast,
) -> None:
    for context, answer in (
        ("He met Jose\u0301 here", "Jose\u0301"),
        ("so \u2764\ufe0f it is", "\u2764\ufe0f"),
    ):
        question = asked(context, answer)
        rows = rows_of(question, tokenizer)
        said = [(1.0, rows[0]["start"], rows[0]["end"], 0.0)]
        assert QuestionAnswering().score([question], rows, said) == {"f1": 1.0, "exact_match": 1.0}


def test_edges_cost_no_training_example(tokenizer: SqueezeBertTokenizerFast, tmp_path: Path) -> None:
    """Every answer of a file whose annotators selected with a mouse: a space or more too much."""
    names = ["Anna", "Bob", "Carl", "Jose\u0301"]
    paragraphs = []
    for at in range(48):
        answer = names[at % 4] + list(EDGES.values())[at % len(EDGES)]
        context = f"He met {answer} in Paris."
        qas = {"id": str(at), "question": "Who?", "answers": [{"text": answer, "answer_start": 7}]}
        paragraphs.append({"context": context, "qas": [qas]})
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    task = QuestionAnswering()
    rows = task.encode(task.read(str(tmp_path / "q.json")), tokenizer, SqueezeBertConfig(), LENGTH)
    assert [row["start"] > 0 for row in rows] == [True] * 48


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_a_model_that_points_at_an_answers_tokens_is_right(
    edge: str, tokenizer: SqueezeBertTokenizerFast
) -> None:
    before = "" if edge == "\ufe0f" else edge  # a mark goes with what stands before it
    answer = f"{before}Anna Smith{edge}"
    question = asked(f"He met {answer} in Paris.", answer)
    (row,) = rows_of(question, tokenizer)
    said = [(1.0, row["start"], row["end"], 0.0)]
    assert QuestionAnswering().score([question], [row], said) == {"f1": 1.0, "exact_match": 1.0}


def test_a_distillation_says_once_which_answers_train_nothing(tmp_path: Path) -> None:
    """Teacher and student read the same examples."""
    base = save_base(SqueezeBertForQuestionAnswering, tmp_path / "base")
    asked = [("it was a film", "film"), ("it\ufe0f was", "\ufe0f")]
    answers = [[{"text": answer, "answer_start": context.index(answer)}] for context, answer in asked]
    paragraphs = [
        {"context": context, "qas": [{"id": "7", "question": "who", "answers": answer}]}
        for (context, _), answer in zip(asked, answers, strict=True)
    ]
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    student = ["--teacher", base, "--layers", 1, "--hidden-size", 16, "--heads", 2]
    how = ["--task", "question-answering", "--max-length", 16, "--max-steps", 1, "--threads", 1]
    result = run("distill", tmp_path / "q.json", "-o", tmp_path / "out", *student, *how)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("no token is part of") == result.stderr.count("\n") == 1


def test_accepted_answers_that_normalize_to_nothing_are_none_as_in_squads_script() -> None:
    assert metrics.answers([""], [["the", "cat"]]) == {"f1": 0.0, "exact_match": 0.0}
    assert metrics.answers(["a"], [["the"]]) == {"f1": 1.0, "exact_match": 1.0}
    assert metrics.answers(["Anna\u00a0Smith "], [["anna smith"]]) == {"f1": 1.0, "exact_match": 1.0}
