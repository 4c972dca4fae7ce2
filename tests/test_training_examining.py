"""What `evaluate` tells of a model beyond its metrics: classes, confusion, calibration, single examples."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from squeezebert_fast import (
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
)
from squeezebert_fast.cli.evaluation_report import in_words, line_of
from squeezebert_fast.training.metrics import Confusion, calibration, confused, entity_counts
from squeezebert_fast.training.tagging import scheme_of
from squeezebert_fast.training.tasks.judged import Answer, JudgedTask, Judgement
from squeezebert_fast.training.tasks.questions import QuestionAnswering
from squeezebert_fast.training.tasks.sequences import Regression, SequenceClassification
from tests.cli_helpers import refuses, succeeds
from tests.training_helpers import opinions, save_base, trains, write_tsv

QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--threads", 1, "--epochs", 1]
NAMES = {0: "bad", 1: "good", 2: "mixed"}


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_figures_by_class_are_scikit_learns(classes: int) -> None:
    chance = np.random.default_rng(classes)
    actual, predicted = chance.integers(0, classes, 200), chance.integers(0, max(classes - 1, 2), 200)
    confusion = Confusion([str(index) for index in range(classes)], confused(predicted, actual, classes))
    assert (confusion.counts == confusion_matrix(actual, predicted, labels=range(classes))).all()
    expected = precision_recall_fscore_support(actual, predicted, labels=range(classes), zero_division=0)
    assert np.array(list(confusion.by_class().values())) == pytest.approx(np.array(expected).T)


def test_mistakes_are_told_by_how_frequent_they_are() -> None:
    confusion = Confusion(["a", "b"], np.array([[5, 1], [3, 4]]))
    assert confusion.mistakes() == [("b", "a", 3), ("a", "b", 1)]


def test_calibration_is_the_mean_difference_of_score_and_accuracy_over_bins() -> None:
    found = calibration([0.95, 0.96, 0.55, 0.6], [True, False, True, True], bins=10)
    assert [(each.answers, each.right) for each in found.bins] == [(2, 1.0), (2, 0.5)]
    assert found.error == pytest.approx((2 * abs(1 - 0.575) + 2 * abs(0.5 - 0.955)) / 4)
    assert (found.score, found.right) == (pytest.approx(0.765), 0.75)
    assert calibration([1.0, 0.0], [True, False]).error == 0.0


def test_scores_are_judged_in_words() -> None:
    sure = [Answer(0.95, True)] * 6 + [Answer(0.95, False)] * 4
    said = in_words(calibration(*zip(*sure, strict=True)), sure)
    assert said.startswith("calibration: overconfident, expected error 0.3500\n")
    assert said.endswith("\nof 10 with a score of 0.9 or more 0.6000 are right")
    modest = [Answer(0.5, True)]
    assert "underconfident" in in_words(calibration(*zip(*modest, strict=True)), modest)


def test_entities_are_counted_by_type() -> None:
    right, said = ["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"]
    assert entity_counts([said], [right], scheme_of(right)) == {"LOC": (1, 1, 1), "PER": (0, 1, 1)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_base(SqueezeBertForSequenceClassification, tmp_path / "model", id2label=NAMES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "dev.tsv", opinions(40, 2, labels=("bad", "good")))


def test_each_example_is_written_with_its_prediction_in_the_order_of_the_data(
    model: Path, data: Path, tmp_path: Path
) -> None:
    for name in ("out.jsonl", "out.csv"):
        said = json.loads(
            succeeds("evaluate", data, "-m", model, "--predictions", tmp_path / name, "--json")
        )["float32"]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == opinions(40, 2, labels=("bad", "good"))
    assert all(row["right"] == (row["label"] == row["prediction"]) for row in rows)
    assert sum(row["right"] for row in rows) / 40 == said["accuracy"]
    assert sum(row["loss"] for row in rows) / 40 == pytest.approx(said["loss"])
    predicted = [json.loads(line) for line in succeeds("predict", "-m", model, data).splitlines()]
    assert [row["prediction"] for row in rows] == [row["label"] for row in predicted]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in predicted], abs=1e-5)
    assert [row["input_label"] for row in rows] == [row["label"] for row in rows]
    with (tmp_path / "out.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [(row["text"], row["prediction"], row["right"]) for row in table] == [
        (row["text"], row["prediction"], json.dumps(row["right"])) for row in rows
    ]


def test_examples_keep_their_ids_and_all_other_columns(model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("id;said;score;gold\na1;good film;7;1\na2;bad film;9;0\n")
    named = ["--column", "said", "--label-column", "gold", "--predictions", tmp_path / "p.jsonl"]
    succeeds("evaluate", tmp_path / "d.csv", "-m", model, *named)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert list(rows[0])[:6] == ["id", "said", "input_score", "gold", "label", "prediction"]
    kept = [(row["id"], row["input_score"], row["gold"], row["label"]) for row in rows]
    assert kept == [("a1", "7", "1", "good"), ("a2", "9", "0", "bad")]
    refuses("evaluate", tmp_path / "d.csv", "-m", model, *named, "--delimiter", "|", said="no column 'said'")


def test_json_has_all_that_is_printed(model: Path, data: Path) -> None:
    found = json.loads(succeeds("evaluate", data, "-m", model, "--json", "--worst", 3))["float32"]
    assert list(found["classes"]) == ["bad", "good", "mixed"]
    assert sum(each["support"] for each in found["classes"].values()) == 40
    assert found["confusion"]["labels"] == ["bad", "good", "mixed"]
    assert np.trace(found["confusion"]["counts"]) / 40 == found["accuracy"]
    assert sum(each["answers"] for each in found["calibration"]["bins"]) == 40
    losses = [each["loss"] for each in found["worst"]]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)
    precisions = ["--precision", "float32,bfloat16"]
    several = json.loads(succeeds("evaluate", data, "-m", model, "--json", "--worst", 3, *precisions))
    assert several["float32"] == found
    assert several["bfloat16"]["confusion"]["labels"] == ["bad", "good", "mixed"]
    assert len(several["bfloat16"]["worst"]) == 3


def test_people_get_tables_and_the_worst_examples_a_line_each(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    said = succeeds("evaluate", data, "-m", model, "--worst", 2)
    for part in ("class  precision  recall", "confusion: a row for each label", "calibration: ", "of 40\n"):
        assert part in said
    worst = said.splitlines()[-2:]
    assert all(len(line) <= 60 and ", said " in line for line in worst)
    assert max(map(len, said.splitlines()[1:])) <= 80


def test_a_wide_matrix_gives_way_to_the_most_frequent_mistakes(tmp_path: Path) -> None:
    names = {index: f"a class with a long name, the {index}th" for index in range(40)}
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model", id2label=names)
    labels = (names[0], names[39])
    said = succeeds("evaluate", write_tsv(tmp_path / "d.tsv", opinions(40, 2, labels=labels)), "-m", model)
    assert "most frequent mistakes" in said
    assert "the 30 lowest f1 of 40 classes; --json has all" in said
    assert len(said.splitlines()) < 60


def test_the_confusion_is_drawn(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds("evaluate", data, "-m", model, "--confusion", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    refuses(
        "evaluate", data, "-m", model, "--confusion", tmp_path / "out.gif", said="expected one of .png, .svg"
    )
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refuses("evaluate", data, "-m", model, "--confusion", tmp_path / "b.png", said="squeezebert-fast[plot]")


def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    model: Path, data: Path, tmp_path: Path
) -> None:
    both = ["--precision", "float32,bfloat16"]
    for option in (
        ["--predictions", tmp_path / "a.csv"],
        ["--worst", 1],
        ["--confusion", tmp_path / "a.png"],
    ):
        refuses("evaluate", data, "-m", model, *both, *option, said=f"{option[0]} is for one precision, but")
    refuses("evaluate", data, "-m", model, "--predictions", tmp_path / "a.npy", said="suffix")
    refuses(
        "evaluate",
        data,
        "-m",
        model,
        "--predictions",
        tmp_path / "no" / "a.csv",
        said="there is no directory",
    )
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "good", "label": "good"}\n')
    refuses(
        "evaluate", lines, "-m", model, "--predictions", lines, said="is the input, which it would replace"
    )
    several = ["evaluate", tmp_path / "*.jsonl", "-m", model]
    refuses(*several, "--predictions", lines, said="is the input, which it would replace")
    numbers = save_base(SqueezeBertForSequenceClassification, tmp_path / "n", num_labels=1)
    table = write_tsv(tmp_path / "n.tsv", [("good", "1.5"), ("bad", "0")])
    refuses(
        "evaluate",
        table,
        "-m",
        numbers,
        "--predictions",
        tmp_path / "a.csv",
        "--confusion",
        tmp_path / "a.png",
        said="means nothing for regression",
    )
    assert not list(tmp_path.glob("a.*"))


def judged(task: str, data: Path, base: Path, folder: Path, *options: Any) -> list[dict[str, Any]]:
    """What is said of a model after a short training, and then of each example."""
    trains("finetune", data, "-m", base, "-o", folder / "out", "--task", task, *options, *QUICK)
    found = json.loads(
        succeeds(
            "evaluate",
            data,
            "-m",
            folder / "out",
            "--predictions",
            folder / "p.jsonl",
            "--json",
            "--worst",
            1,
        )
    )["float32"]
    rows = [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]
    assert found["worst"][0]["loss"] == max(row["loss"] for row in rows)
    assert succeeds("evaluate", data, "-m", folder / "out", "--worst", 2).count("\n") > 5
    return [found, *rows]


def test_every_task_is_examined(tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    numbers = write_tsv(tmp_path / "numbers.tsv", [(text, str(len(text))) for text, _ in opinions(16, 2)])
    found, *rows = judged("regression", numbers, base, tmp_path / "r")
    assert (rows[0]["label"], rows[0]["score"], rows[0]["right"]) == (float(len(rows[0]["text"])), None, None)
    assert "classes" not in found
    assert np.mean([row["loss"] for row in rows]) == pytest.approx(found["mse"])

    choices = write_tsv(
        tmp_path / "c.tsv", [("film was", "good", "bad", "0"), ("who saw", "rome", "anna", "1")] * 8,
        header=("text", "a", "b", "label"),
    )  # fmt: skip
    found, *rows = judged("multiple-choice", choices, base, tmp_path / "c", "--choice-columns", "a,b")
    assert [row["label"] for row in rows] == ["a", "b"] * 8
    assert (rows[0]["a"], rows[0]["b"]) == ("good", "bad")
    assert np.mean([row["right"] for row in rows]) == found["accuracy"]

    tags = tmp_path / "t.conll"
    tags.write_text("anna B-PER\nlives O\nin O\nrome B-LOC\n\n" * 8)
    found, *rows = judged("token-classification", tags, base, tmp_path / "t", "--max-length", 5)
    assert (rows[0]["words"], rows[0]["label"]) == (
        ["anna", "lives", "in", "rome"],
        ["B-PER", "O", "O", "B-LOC"],
    )
    assert rows[0]["prediction"][3] == "O"  # cut off, so never found
    assert set(found["classes"]) >= {"LOC", "PER"}
    assert found["classes"]["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 8}
    assert found["confusion"]["labels"] == ["O", "LOC", "PER"]

    asked = [{"id": "a", "question": "who lives in rome", "answers": [{"text": "anna", "answer_start": 0}]}]
    asked += [{"id": "b", "question": "who saw it", "answers": [], "is_impossible": True}]
    paragraph = {"context": "anna lives in rome and bob in paris and carl in london", "qas": asked}
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph] * 4}]}))
    found, *rows = judged("question-answering", tmp_path / "q.json", base, tmp_path / "q", "--max-length", 14)
    assert [(row["id"], row["label"]) for row in rows] == [("a", ["anna"]), ("b", [])] * 4
    assert np.mean([row["right"] for row in rows]) == found["exact_match"]
    assert all(0 <= row["score"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("task", "head"),
    [
        (QuestionAnswering, SqueezeBertForQuestionAnswering),
        (Regression, SqueezeBertForSequenceClassification),
        (SequenceClassification, SqueezeBertForSequenceClassification),
    ],
)
def test_a_batchs_answers_are_computed_once(
    task: type[JudgedTask], head: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all spans of a paragraph they cost more than the model's head."""
    fields = {"num_labels": 1} if task is Regression else {}
    model = save_base(head, tmp_path / "model", **fields)
    asked = {"id": "a", "question": "who", "answers": [{"text": "anna", "answer_start": 0}]}
    squad = {"data": [{"paragraphs": [{"context": "anna lives in rome", "qas": [asked] * 8}]}]}
    data = tmp_path / "data.tsv"
    if task is QuestionAnswering:
        data.write_text(json.dumps(squad))
    else:
        labels = ("0.5", "1.5") if task is Regression else ("0", "1")
        write_tsv(data, opinions(8, 1, labels=labels))
    calls, original = [], task.answers

    def answers(self: JudgedTask, output: Any, batch: Any) -> list[Any]:
        calls.append(len(batch["input_ids"]))
        return original(self, output, batch)

    monkeypatch.setattr(task, "answers", answers)
    succeeds("evaluate", data, "-m", model, "--batch-size", 4, "--json")
    assert calls == [4, 4]


def test_an_examples_line_says_what_is_wrong() -> None:
    texts = Judgement({"text": "a\nfilm", "pair": "b"}, "good", "bad", 0.9, 2.5, False)
    assert line_of(texts) == "  2.5000  good, said bad 0.90: a film | b"
    words = {"words": ["in", "rome"]}
    tags = Judgement(words, ["O", "B-LOC"], ["O", "O"], 0.9, 2.5, False)
    assert line_of(tags) == "  2.5000  1 of 2 words wrong: rome B-LOC, said O"
    assert line_of(Judgement({"text": "a"}, 2.0, 1.25, None, 0.5625, None)) == "  0.5625  2, said 1.25: a"
    asked = Judgement({"id": "7", "question": "who"}, [], "anna", 0.5, 1.0, False)
    assert line_of(asked) == "  1.0000  no answer, said anna 0.50: 7 | who"
