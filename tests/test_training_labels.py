"""How a data file's labels meet a model's: one rule, whichever command reads the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
)
from squeezebert_fast.errors import InputError
from squeezebert_fast.training.labels import meet, names_for
from tests.cli_helpers import refuses, run, succeeds
from tests.training_helpers import opinions, save_base, trains, write_tsv

QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--threads", 1, "--max-steps", 1]
NAMES = ("negative", "positive")


def found(*labels: str) -> dict[str, str]:
    return {label: f"dev.tsv, line {number}" for number, label in enumerate(labels, 2)}


@pytest.mark.parametrize(
    ("data", "model", "given", "ids"),
    [
        (("positive", "negative"), NAMES, (), (1, 0)),
        (("positive",), NAMES, (), (1,)),
        (("Positive", " NEGATIVE "), NAMES, (), (1, 0)),
        (("No", "no"), ("no", "No"), (), (1, 0)),
        (("0", "1"), NAMES, (), (0, 1)),
        (("1",), NAMES, (), (1,)),
        (("1.0", "0.0"), NAMES, (), (1, 0)),
        (("LABEL_1", "LABEL_0"), NAMES, (), (1, 0)),
        (("1", "0"), ("LABEL_0", "LABEL_1"), (), (1, 0)),
        (("LABEL_1",), ("0", "1"), (), (1,)),
        (("1", "2", "10"), ("1", "2", "10"), (), (0, 1, 2)),
        (("negative", "positive"), ("LABEL_0", "LABEL_1"), NAMES, (0, 1)),
        (("negative", "positive"), ("LABEL_0", "LABEL_1"), NAMES[::-1], (1, 0)),
        (("0", "1"), NAMES[::-1], NAMES, (1, 0)),
        (("neg", "pos", "1"), NAMES, ("neg", "pos", "?"), None),
        (("0", "1"), ("neg", "pos"), NAMES, (0, 1)),
        (("negative",), ("neg", "pos"), NAMES, (0,)),
    ],
)
def test_labels_meet(
    data: tuple[str, ...], model: tuple[str, ...], given: tuple[str, ...], ids: tuple[int, ...] | None
) -> None:
    if ids is None:
        with pytest.raises(InputError):
            meet(found(*data), model, given)
        return
    assert meet(found(*data), model, given).ids == dict(zip(data, ids, strict=True))


@pytest.mark.parametrize(
    ("data", "model", "given", "said"),
    [
        (
            ("good", "bad"), NAMES, (),
            "dev.tsv, line 2: the data's labels are 'bad', 'good', the model's 'negative', 'positive'; if they mean "
            "the same, name the model's in their order: --labels FIRST,SECOND",
        ),
        (NAMES, ("LABEL_0", "LABEL_1"), (), "the model's 'LABEL_0', 'LABEL_1'; if they mean the same"),
        (NAMES, ("0", "1"), (), "the data's labels are 'negative', 'positive', the model's '0', '1'"),
        (("positive", "neutral"), NAMES, (), "dev.tsv, line 3: the label 'neutral' is not one of 'negative'"),
        (("1", "2"), NAMES, (), "the model's 'negative', 'positive'; numbers stand for labels from 0 on"),
        (("0", "9"), ("1", "2", "9"), (), "dev.tsv, line 2: the label '0' is not one of '1', '2', '9'"),
        (("2.5", "0.4"), NAMES, (), "'negative', 'positive'; --task regression learns and measures numbers"),
        (("0.5", "0.4"), ("0.5", "1.0"), (), "not one of '0.5', '1.0'; --task regression"),
        (("0", "1"), NAMES, ("a", "b", "c"), "--labels is 'a', 'b', 'c', 3 in all, but the model's labels are 2"),
        (("0", "1"), NAMES, ("negative", "good"), "--labels is 'negative', 'good', but the model's labels are 'neg"),
    ],
)  # fmt: skip
def test_labels_that_do_not_meet_are_told_apart_in_one_line(
    data: tuple[str, ...], model: tuple[str, ...], given: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        meet(found(*data), model, given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_read_as_names_are_shown() -> None:
    assert meet(found("1", "0.0"), NAMES).reading == "the labels 0, 1 are read as negative, positive"
    assert meet(found("1", "0"), ("LABEL_0", "LABEL_1")).reading == ""
    assert meet(found("Positive"), NAMES).reading == ""


def test_a_model_keeps_its_names_and_a_student_has_its_teachers() -> None:
    assert names_for(found("0", "1"), ["0", "1"], known=NAMES) == list(NAMES)
    assert names_for(found("0", "1"), ["0", "1"], known=("a", "b", "c")) == ["0", "1"]
    assert names_for(found("0", "1"), ["0", "1"], known=("a", "b", "c"), teacher=True) == ["a", "b", "c"]
    assert names_for(found("0", "1"), ["0", "1"], known=("LABEL_0", "LABEL_1"), teacher=True) == ["0", "1"]
    assert names_for(found("0", "1"), ["0", "1"], NAMES) == list(NAMES)
    assert names_for(found("positive", "0"), ["0", "positive"]) == ["0", "positive"]
    with pytest.raises(InputError, match=r"the data's labels are 'x', 'y', --labels 'negative', 'positive'$"):
        names_for(found("x", "y"), ["x", "y"], NAMES)


def config_of(folder: Path) -> SqueezeBertConfig:
    return SqueezeBertConfig.from_json_file(folder / "config.json")


def test_data_with_numbers_and_with_names_give_one_figure(tmp_path: Path) -> None:
    """The issue's case: sst2.tsv has 0 and 1, the model that ships negative and positive."""
    names = dict(enumerate(NAMES))
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model", id2label=names)
    figures = []
    for labels in (NAMES, ("0", "1"), ("NEGATIVE", "POSITIVE")):
        path = write_tsv(tmp_path / "dev.tsv", opinions(48, 2, labels=labels))
        figures.append(json.loads(succeeds("evaluate", path, "-m", model, "--json")))
    assert figures[0] == figures[1] == figures[2]
    shown = succeeds(
        "evaluate", write_tsv(tmp_path / "d.tsv", opinions(48, 2, labels=("0", "1"))), "-m", model
    )
    assert "the labels 0, 1 are read as negative, positive" in shown


def test_labels_are_named_in_every_command(tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    train = write_tsv(tmp_path / "train.tsv", opinions(48, 2, labels=("0", "1")))
    named = write_tsv(tmp_path / "named.tsv", opinions(48, 2, labels=NAMES))
    option = ["--labels", "negative, positive"]
    trains("finetune", train, "-m", base, "-o", tmp_path / "a", *option, *QUICK)
    assert config_of(tmp_path / "a").id2label == {0: "negative", 1: "positive"}
    unnamed = save_base(SqueezeBertForSequenceClassification, tmp_path / "unnamed")
    refuses("evaluate", named, "-m", unnamed, said="--labels FIRST,SECOND")
    by_name = json.loads(succeeds("evaluate", named, "-m", unnamed, "--json", *option))
    assert (
        by_name["float32"]["loss"]
        == json.loads(succeeds("evaluate", train, "-m", unnamed, "--json"))["float32"]["loss"]
    )
    sizes = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--groups", 2]
    refuses(
        "distill", named, "--teacher", unnamed, "-o", tmp_path / "b", *sizes, said="the teacher's 'LABEL_0'"
    )
    trains("distill", train, "--teacher", unnamed, "-o", tmp_path / "b", *option, *sizes, *QUICK)
    assert config_of(tmp_path / "b").id2label == {0: "negative", 1: "positive"}
    for labels, said in (("one", "expected two names or more"), ("a,b,a", "names 'a' more than once")):
        refuses("finetune", train, "-m", base, "-o", tmp_path / "c", "--labels", labels, said=said)
    regression = ["--task", "regression", *option]
    refuses(
        "finetune", train, "-m", base, "-o", tmp_path / "c", *regression, said="--labels means nothing for"
    )


def test_training_goes_on_with_a_models_own_names(tmp_path: Path) -> None:
    names = {0: "positive", 1: "negative"}
    base = save_base(SqueezeBertForSequenceClassification, tmp_path / "base", id2label=names)
    train = write_tsv(tmp_path / "train.tsv", opinions(48, 2, labels=("1", "0")))
    said = run("finetune", train, "-m", base, "-o", tmp_path / "a", *QUICK).stdout
    assert "the labels 0, 1 are read as positive, negative" in said
    assert config_of(tmp_path / "a").id2label == names
    trains("finetune", train, "-m", base, "-o", tmp_path / "b", "--labels", "ham,spam", *QUICK)
    assert config_of(tmp_path / "b").id2label == {0: "ham", 1: "spam"}


def test_tags_that_are_numbers_meet_a_models_names(tmp_path: Path) -> None:
    """Data sets on the hub have numbers for tags, and the names in their card."""
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    model = save_base(SqueezeBertForTokenClassification, tmp_path / "model", id2label=names)
    unnamed = save_base(SqueezeBertForTokenClassification, tmp_path / "unnamed", num_labels=3)
    for name, tags in (("names", list(names.values())), ("numbers", ["0", "1", "2"])):
        lines = (f"anna {tags[1]}\nbob {tags[2]}\nlives {tags[0]}\n\n" for _ in range(4))
        (tmp_path / f"{name}.conll").write_text("".join(lines))
    by_name, by_number, named = (
        json.loads(succeeds("evaluate", tmp_path / f"{file}.conll", "-m", folder, "--json", *options))[
            "float32"
        ]
        for file, folder, options in (
            ("names", model, []),
            ("numbers", model, []),
            ("numbers", unnamed, ["--labels", "O,B-PER,I-PER"]),
        )
    )
    assert by_name == by_number == named
    assert "f1" in by_name
