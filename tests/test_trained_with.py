"""What a model was trained with is kept in its folder, and is what every command does unless it is told otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
)
from squeezebert_fast.errors import ConfigError
from squeezebert_fast.trained_with import ENTRY, TrainedWith
from tests.cli_helpers import refuses, succeeds
from tests.training_helpers import opinions, save_base, summary_of, trains, write_tsv
from tests.transformers_folders import save_folder

QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--threads", 1, "--epochs", 2]
SIZES = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--groups", 2]
SHORT = 7  # tokens: most of the texts are longer, so that it shows where they are cut


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(SqueezeBertModel, tmp_path / "base")


def pairs(path: Path) -> Path:
    """A pair's label is whether both texts are of one kind, so that one text alone says nothing."""
    texts = opinions(96, 1)
    others = opinions(96, 2)
    rows = [(a, b, "same" if x == y else "other") for (a, x), (b, y) in zip(texts, others, strict=True)]
    return write_tsv(path, rows, ("premise", "hypothesis", "gold"))


PAIR = ["--column", "premise", "--pair-column", "hypothesis", "--label-column", "gold"]


def write_data(task: str, folder: Path) -> tuple[Path, list[Any]]:
    """A file of labelled examples, and the options that say where it has what."""
    if task == "classification":
        return pairs(folder / "pairs.tsv"), PAIR
    if task == "regression":
        rows = [(text, str(len(text))) for text, _ in opinions(48, 2)]
        return write_tsv(folder / "numbers.tsv", rows, ("said", "size")), [
            "--column",
            "said",
            "--label-column",
            "size",
        ]
    if task == "multiple-choice":
        rows = [("film was", f"{text} good", "so", "0") for text, _ in opinions(24, 3)]
        rows += [("who saw", "anna", f"rome {text}", "1") for text, _ in opinions(24, 4)]
        named = ["--column", "begin", "--choice-columns", "one,two", "--label-column", "right"]
        return write_tsv(folder / "choices.tsv", rows, ("begin", "one", "two", "right")), named
    if task == "token-classification":
        lines = [
            "\n".join(f"{w} {'B-X' if w in ('good', 'bad') else 'O'}" for w in t.split())
            for t, _ in opinions(48, 5)
        ]
        (folder / "names.conll").write_text("\n\n".join(lines) + "\n")
        return folder / "names.conll", []
    context = "so anna lives in rome and bob in paris and carl in london that we saw on a film"
    asked = [
        {"id": at, "question": f"who lives in {place}", "answers": [{"text": name, "answer_start": at}]}
        for name, place in (("anna", "rome"), ("bob", "paris"), ("carl", "london"))
        for at in [context.index(name)]
    ]
    (folder / "squad.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": context, "qas": asked}] * 8}]})
    )
    return folder / "squad.json", ["--stride", 3]


@pytest.mark.parametrize(
    "task", ["classification", "regression", "multiple-choice", "token-classification", "question-answering"]
)
def test_evaluating_the_dev_data_gives_the_figure_that_finetuning_printed(
    task: str, base: Path, tmp_path: Path
) -> None:
    data, named = write_data(task, tmp_path)
    length = 16 if task == "question-answering" else SHORT
    out = tmp_path / "out"
    said = trains(
        "finetune", data, "--dev", data, "-m", base, "-o", out, "--task", task, *named, "--max-length", length, *QUICK
    )  # fmt: skip
    best, metric = summary_of(out)["best"]["dev"], summary_of(out)["metric"]
    assert f"best dev {metric} {best[metric]:.4f}" in said
    measured = json.loads(succeeds("evaluate", data, "-m", out, "--json"))["float32"]
    assert {name: f"{measured[name]:.4f}" for name in best} == {
        name: f"{value:.4f}" for name, value in best.items()
    }
    longer = json.loads(succeeds("evaluate", data, "-m", out, "--json", "--max-length", 48))["float32"]
    assert longer["loss"] != measured["loss"]  # an explicit option wins


def test_a_pair_model_is_measured_on_pairs_though_nobody_says_so(base: Path, tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "pairs.tsv"), tmp_path / "out"
    trains("finetune", data, "--dev", data, "-m", base, "-o", out, *PAIR, *QUICK)
    named = json.loads(succeeds("evaluate", data, "-m", out, "--json", *PAIR))
    assert json.loads(succeeds("evaluate", data, "-m", out, "--json")) == named
    alone = json.loads(succeeds("evaluate", data, "-m", out, "--json", "--pair-column", ""))
    assert alone["float32"]["loss"] != named["float32"]["loss"]


def test_a_student_and_a_second_training_read_what_the_first_one_read(base: Path, tmp_path: Path) -> None:
    data, named = write_data("multiple-choice", tmp_path)
    first, second, student = tmp_path / "first", tmp_path / "second", tmp_path / "student"
    first_options = ["--task", "multiple-choice", *named, "--max-length", SHORT]
    trains("finetune", data, "-m", base, "-o", first, *first_options, *QUICK)
    trains("finetune", data, "-m", first, "-o", second, *QUICK)
    trains("distill", data, "--teacher", first, "-o", student, *SIZES, *QUICK)
    expected = {
        "task": "multiple-choice",
        "column": "begin",
        "choice_columns": "one,two",
        "label_column": "right",
        "max_length": SHORT,
    }
    for folder in (first, second, student):
        assert json.loads((folder / "config.json").read_text())[ENTRY] == expected


def test_another_task_starts_with_the_usual_settings(base: Path, tmp_path: Path) -> None:
    data, named = write_data("regression", tmp_path)
    numbers, words = tmp_path / "numbers", tmp_path / "words"
    trains(
        "finetune", data, "-m", base, "-o", numbers, "--task", "regression", *named, "--max-length", 9, *QUICK
    )
    train = write_tsv(tmp_path / "t.tsv", opinions(32, 1))
    trains("finetune", train, "-m", numbers, "-o", words, "--task", "classification", *QUICK)
    assert TrainedWith.of_model(words) == TrainedWith(
        task="classification", column="text", label_column="label", max_length=48
    )


def test_the_metric_that_chose_the_model_chooses_again(base: Path, tmp_path: Path) -> None:
    train = write_tsv(tmp_path / "t.tsv", opinions(32, 1))
    first, second = tmp_path / "first", tmp_path / "second"
    trains("finetune", train, "--dev", train, "-m", base, "-o", first, "--metric", "f1_macro", *QUICK)
    trains("finetune", train, "--dev", train, "-m", first, "-o", second, *QUICK)
    assert summary_of(second)["metric"] == "f1_macro"


def test_a_kept_column_that_the_data_lacks_is_named_with_the_option_for_another(
    base: Path, tmp_path: Path
) -> None:
    data, out = pairs(tmp_path / "pairs.tsv"), tmp_path / "out"
    trains("finetune", data, "-m", base, "-o", out, *PAIR, *QUICK)
    other = write_tsv(
        tmp_path / "other.tsv", [("a", "b", "same"), ("a", "b", "other")], ("one", "two", "gold")
    )
    said = "has no column 'premise'; it has one, two, gold. {} was trained with --column premise; give --column for"
    for command in (["evaluate", other, "-m", out], ["finetune", other, "-m", out, "-o", tmp_path / "no"]):
        refuses(*command, said=said.format(out))
    to = ["-o", tmp_path / "no", *SIZES]
    refuses("distill", other, "--teacher", out, *to, said=said.format(out))
    refuses(
        "evaluate", other, "-m", out, "--column", "one",
        said=f"{out} was trained with --pair-column hypothesis; give --pair-column for another, or '' for none",
    )  # fmt: skip
    refuses(
        "evaluate", other, "-m", out, "--column", "three", said="no column 'three'; it has one, two, gold\n"
    )
    succeeds("evaluate", other, "-m", out, "--column", "one", "--pair-column", "two")


def test_what_was_kept_goes_wherever_the_model_goes(base: Path, tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "pairs.tsv"), tmp_path / "out"
    trains("finetune", data, "-m", base, "-o", out, *PAIR, "--max-length", 12, *QUICK)
    kept = TrainedWith.of_model(out)
    assert (kept.pair_column, kept.max_length) == ("hypothesis", 12)
    succeeds("quantize", out, tmp_path / "int8")
    succeeds("average", out, out, "-o", tmp_path / "mean")
    SqueezeBertForSequenceClassification.from_pretrained(out).save_pretrained(tmp_path / "again")
    theirs = transformers.SqueezeBertForSequenceClassification.from_pretrained(out)
    theirs.save_pretrained(tmp_path / "theirs")
    for copy in ("int8", "mean", "again", "theirs"):
        assert TrainedWith.of_model(tmp_path / copy) == kept, copy


def test_a_model_of_transformers_keeps_it_too_also_when_it_is_converted(tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "pairs.tsv"), tmp_path / "out"
    trains("finetune", data, "-m", save_folder("bert", "Model", tmp_path / "bert"), "-o", out, *PAIR, *QUICK)
    kept = TrainedWith.of_model(out)
    assert kept.pair_column == "hypothesis"
    transformers.AutoModelForSequenceClassification.from_pretrained(out).save_pretrained(tmp_path / "theirs")
    succeeds("convert", out, tmp_path / "converted")
    succeeds("quantize", out, tmp_path / "int8")
    for copy in ("theirs", "converted", "int8"):
        assert TrainedWith.of_model(tmp_path / copy) == kept, copy


def test_an_average_keeps_what_its_models_share(base: Path, tmp_path: Path) -> None:
    train = write_tsv(tmp_path / "t.tsv", opinions(32, 1))
    for length in (9, 12):
        trains("finetune", train, "-m", base, "-o", tmp_path / str(length), "--max-length", length, *QUICK)
    succeeds("average", tmp_path / "9", tmp_path / "12", "-o", tmp_path / "mean")
    kept = TrainedWith.of_model(tmp_path / "mean")
    assert kept == TrainedWith(task="classification", column="text", label_column="label")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ([], "squeezebert_fast is [], expected a JSON object"),
        ({"max_length": "long"}, "squeezebert_fast.max_length is 'long', expected a number of tokens"),
        ({"column": 3}, "squeezebert_fast.column is 3, expected a text"),
    ],
)
def test_a_damaged_entry_is_named(entry: Any, said: str, tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, ENTRY: entry}))
    with pytest.raises(ConfigError, match=r"config\.json"):
        TrainedWith.of_model(model)
    refuses("evaluate", write_tsv(tmp_path / "t.tsv", opinions(4, 1)), "-m", model, said=said)


def test_a_model_that_nothing_was_kept_of_has_an_empty_record_and_gets_no_entry(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model")
    assert TrainedWith.of_model(model) == TrainedWith()
    config = SqueezeBertConfig()
    TrainedWith(task="regression").keep_in(config)
    assert TrainedWith.of_config(config.to_dict()).task == "regression"
    TrainedWith().keep_in(config)
    assert ENTRY not in config.to_dict()
