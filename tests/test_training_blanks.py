"""Empty texts train nothing and are measured by nothing: every command leaves them out, and says how many."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast import (
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
)
from tests.cli_helpers import refuses, run, succeeds
from tests.training_helpers import log_of, opinions, save_base, small_run, trains, write_small_run, write_tsv

BLANK = ("", "  ", "\u200b")


def warning(count: int, place: str) -> str:
    texts = "1 text is" if count == 1 else f"{count} texts are"
    return f"squeezebert-fast: warning: {texts} empty, the first is {place}: examples with one are left out\n"


def measured(*arguments: object, warned: str = "") -> dict[str, Any]:
    result = run("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr == warned
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return save_base(SqueezeBertForSequenceClassification, folder, id2label={0: "neg", 1: "pos"})


def test_a_run_with_empty_texts_is_the_run_without_them(tmp_path: Path) -> None:
    write_small_run(tmp_path)
    trains(*small_run(tmp_path, "without"))
    rows = opinions(60, 1)
    for at, blank in ((7, BLANK[0]), (20, BLANK[1]), (33, BLANK[2])):
        rows.insert(at, (blank, "pos"))
    train = write_tsv(tmp_path / "train.tsv", rows)
    result = run(*small_run(tmp_path, "with"))
    assert result.exit_code == 0
    assert warning(3, f"{train}, line 9") in result.stderr
    for ours, theirs in zip(log_of(tmp_path / "with"), log_of(tmp_path / "without"), strict=True):
        assert ours.get("loss") == theirs.get("loss")
        assert ours.get("dev") == theirs.get("dev")


def test_distilling_leaves_them_out_too(model: Path, tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "t.tsv", [*opinions(20, 1), ("", "pos")])
    how = ["--layers", 1, "--hidden-size", 8, "--heads", 2, "--max-steps", 1, "--threads", 1]
    result = run("distill", data, "--teacher", model, "-o", tmp_path / "out", *how)
    assert result.exit_code == 0, result.stderr
    assert warning(1, f"{data}, line 22") in result.stderr


def test_empty_texts_are_not_measured(model: Path, tmp_path: Path) -> None:
    rows = opinions(6, 2)
    without = measured(write_tsv(tmp_path / "a.tsv", rows), "-m", model)
    data = write_tsv(
        tmp_path / "b.tsv", [*rows[:2], ("", "no label of the model's"), *rows[2:], (" ", "pos")]
    )
    assert measured(data, "-m", model, warned=warning(2, f"{data}, line 4")) == without
    result = run("evaluate", data, "-m", model, "--predictions", tmp_path / "p.jsonl")
    assert result.stdout.startswith(f"classification, 6 examples of {data} ")
    written = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in written] == rows


@pytest.mark.parametrize("missing", ["null", "NaN", '""'])
def test_a_text_that_is_not_there_is_an_empty_one_and_a_label_is_not(
    missing: str, model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "t.jsonl"
    good = '{"text": "good", "label": "pos"}\n'
    data.write_text(f'{good}{{"text": {missing}, "label": "pos"}}\n')
    assert measured(data, "-m", model, warned=warning(1, f"{data}, line 2"))
    data.write_text(f'{good}{{"text": "good", "label": {missing}}}\n')
    refuses("evaluate", data, "-m", model, said=f"{data}, line 2: 'label' is ")


def test_of_a_pair_or_of_choices_one_is_enough(model: Path, tmp_path: Path) -> None:
    pairs = [("good", "a film", "pos"), ("", "a film", "pos"), ("good", " ", "neg")]
    data = write_tsv(tmp_path / "p.tsv", pairs, ("text", "other", "label"))
    assert measured(
        data, "-m", model, "--pair-column", "other", warned=warning(2, f"{data}, line 3")
    ) == measured(
        write_tsv(tmp_path / "q.tsv", pairs[:1], ("text", "other", "label")),
        "-m",
        model,
        "--pair-column",
        "other",
    )
    choices = save_base(SqueezeBertForMultipleChoice, tmp_path / "choices")
    rows = [("film", "good", "bad", "0"), ("film", "", "bad", "1")]
    data = write_tsv(tmp_path / "c.tsv", rows, ("text", "a", "b", "label"))
    assert measured(data, "-m", choices, "--choice-columns", "a,b", warned=warning(1, f"{data}, line 3"))


def squad(path: Path, *questions: str, context: str = "bob lives in rome") -> Path:
    asked = [
        {"id": str(at), "question": each, "answers": [{"text": context[:3], "answer_start": 0}]}
        for at, each in enumerate(questions)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}))
    return path


def test_questions_without_words_are_left_out(tmp_path: Path) -> None:
    answers = save_base(SqueezeBertForQuestionAnswering, tmp_path / "qa")
    data = squad(tmp_path / "q.json", "who", " ", "who lives")
    warned = warning(1, f"{data}, data[0].paragraphs[0].qas[1]")
    assert measured(data, "-m", answers, warned=warned) == measured(
        squad(tmp_path / "w.json", "who", "who lives"), "-m", answers
    )
    said = "empty.json holds no questions but empty ones"
    for question, context in ((" ", "bob"), ("who", " \n  ")):
        refuses(
            "evaluate", squad(tmp_path / "empty.json", question, context=context), "-m", answers, said=said
        )


def test_questions_come_from_standard_input_and_compressed_files_too(tmp_path: Path) -> None:
    answers = save_base(SqueezeBertForQuestionAnswering, tmp_path / "qa")
    data = squad(tmp_path / "q.json", "who")
    expected = measured(data, "-m", answers)
    (tmp_path / "q.json.gz").write_bytes(gzip.compress(data.read_bytes()))
    assert measured(tmp_path / "q.json.gz", "-m", answers) == expected
    said = succeeds("evaluate", "-", "-m", answers, stdin=data.read_text())
    assert said.startswith("question-answering, 1 example of standard input cut at 48 tokens\n")


def test_a_file_of_empty_texts_alone_is_refused(model: Path, tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "t.tsv", [(" ", "pos"), ("", "neg")])
    said = "t.tsv holds no texts but empty ones"
    refuses("evaluate", data, "-m", model, said=said)
    refuses("finetune", data, "-m", model, "-o", tmp_path / "out", said=said)
    assert not (tmp_path / "out").exists()
