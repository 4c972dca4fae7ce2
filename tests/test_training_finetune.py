"""`squeezebert-fast finetune`: what it learns, writes and refuses, for texts with a label or a number."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
    save_quantized,
)
from squeezebert_fast.training.averaging import moving_average
from squeezebert_fast.training.run_folder import MODEL_FILES
from tests.cli_helpers import refuses, run, succeeds
from tests.training_helpers import (
    BAD,
    assert_same_end,
    log_of,
    opinions,
    save_base,
    state_of,
    summary_of,
    tensors,
    trains,
    write_tsv,
    write_vocab,
)

QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--max-length", 32, "--threads", 1]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(SqueezeBertModel, tmp_path / "base")


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_tsv(tmp_path / "train.tsv", opinions(128, 1)),
        write_tsv(tmp_path / "dev.tsv", opinions(48, 2)),
    )


def test_a_program_gets_how_a_run_ended_and_nothing_else(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = data
    result = run(
        "finetune",
        train,
        "--dev",
        dev,
        "-m",
        base,
        "-o",
        tmp_path / "out",
        "--max-steps",
        2,
        "--json",
        *QUICK,
    )
    assert result.exit_code == 0
    ended = json.loads(result.stdout)
    assert ended.pop("path") == str(tmp_path / "out")
    assert ended == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "step 2 of 2" in result.stderr


def test_a_model_learns_and_the_folder_is_a_model(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = trains("finetune", data[0], "--dev", data[1], "-m", base, "-o", out, "--epochs", 6, *QUICK)
    summary = summary_of(out)
    assert summary["best"]["dev"]["accuracy"] > 0.95
    assert f"best dev accuracy {summary['best']['dev']['accuracy']:.4f}" in said
    assert (summary["steps"], summary["epochs"], summary["training_examples"]) == (48, 6.0, 128)
    losses = [line["loss"] for line in log_of(out) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")

    config = SqueezeBertConfig.from_json_file(out / "config.json")
    assert config.label2id == {"neg": 0, "pos": 1}
    (tmp_path / "new.txt").write_text("\n".join(f"so {word} that we saw" for word in BAD))
    rows = [json.loads(line) for line in succeeds("predict", "-m", out, tmp_path / "new.txt").splitlines()]
    assert [row["label"] for row in rows] == ["neg"] * len(BAD)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_every_format_trains_the_same(
    suffix: str, base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [{"label": label, "id": 7, "text": text} for text, label in opinions(128, 1)]
    path = tmp_path / f"train.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    for source, out in ((data[0], "a"), (path, "b")):
        trains("finetune", source, "-m", base, "-o", tmp_path / out, "--max-steps", 4, *QUICK)
    assert_same_end(tmp_path / "a", tmp_path / "b")


def test_files_of_any_suffix_train_where_their_format_is_named(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copy(data[0], parts / "part-0")
    named = ["--input-format", "tsv", "--max-steps", 2, *QUICK]
    trains("finetune", parts, "-m", base, "-o", tmp_path / "out", *named)
    shutil.copy(data[1], parts / "part-1")
    refuses("finetune", parts, "-m", base, "-o", tmp_path / "out", *named, "--resume", said="train is '")


def test_pairs_are_read_together_from_named_columns(base: Path, tmp_path: Path) -> None:
    rows = [
        (text, word, label) for word, (text, label) in zip(["good", "bad"] * 32, opinions(64, 1), strict=True)
    ]
    train = write_tsv(tmp_path / "t.tsv", rows, ("one", "two", "class"))
    columns = ["--column", "one", "--pair-column", "two", "--label-column", "class"]
    trains("finetune", train, "-m", base, "-o", tmp_path / "out", "--max-steps", 2, *columns, *QUICK)
    refuses("finetune", train, "-m", base, "-o", tmp_path / "no", "--column", "one", said="no column 'label'")
    assert not (tmp_path / "no").exists()


def test_numbers_are_regression(base: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": 2.5 if label == "pos" else -1} for text, label in opinions(128, 1)]
    train = tmp_path / "train.jsonl"
    train.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    trains(
        "finetune",
        train,
        "--dev",
        train,
        "-m",
        base,
        "-o",
        out,
        "--task",
        "regression",
        "--no-head-first",
        "--epochs",
        8,
        *QUICK,
    )
    best = summary_of(out)["best"]["dev"]
    assert summary_of(out)["metric"] == "r2"
    labels = [row["label"] for row in rows]
    assert best["r2"] == pytest.approx(1 - best["mse"] / np.var(labels))
    assert best["pearson"] > 0.9
    assert best["mse"] == pytest.approx(best["loss"], rel=1e-5)
    config = SqueezeBertConfig.from_json_file(out / "config.json")
    assert (config.problem_type, config.num_labels) == ("regression", 1)


def test_a_new_model_has_the_sizes_and_the_vocabulary_given(data: tuple[Path, Path], tmp_path: Path) -> None:
    vocab = write_vocab(tmp_path)
    sizes = ["--layers", 2, "--hidden-size", 32, "--heads", 4, "--groups", 2, "--vocab", vocab]
    trains("finetune", data[0], "-o", tmp_path / "out", "--max-steps", 1, *sizes, *QUICK)
    config = SqueezeBertConfig.from_json_file(tmp_path / "out" / "config.json")
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 4)
    assert (config.intermediate_size, config.q_groups, config.output_groups) == (128, 2, 2)
    assert config.post_attention_groups == 1
    assert config.vocab_size == len(SqueezeBertTokenizerFast.from_pretrained(tmp_path / "out"))


def test_a_seed_gives_the_same_bits_and_another_seed_others(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        options = ["--dev", data[1], "--max-steps", 3, "--seed", seed, *QUICK]
        trains("finetune", data[0], "-m", base, "-o", tmp_path / name, *options)
    assert_same_end(tmp_path / "a", tmp_path / "b")
    a, c = tensors(state_of(tmp_path / "a")["model"]), tensors(state_of(tmp_path / "c")["model"])
    assert not any(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_accumulation_changes_nothing_but_rounding(
    accumulate: int, data: tuple[Path, Path], tmp_path: Path
) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    base = save_base(SqueezeBertModel, tmp_path / "still", **still)
    for name, passes in (("one", 1), ("many", accumulate)):
        options = ["--max-steps", 3, "--log-every", 1, "--accumulate", passes, *QUICK]
        trains("finetune", data[0], "-m", base, "-o", tmp_path / name, *options)
    for one, many in zip(log_of(tmp_path / "one"), log_of(tmp_path / "many"), strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert many["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)


def test_bfloat16_trains_and_keeps_float32_parameters(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        options = ["--precision", precision, "--max-steps", 4, "--log-every", 1, *QUICK]
        trains("finetune", data[0], "-m", base, "-o", out, *options)
        assert all(t.dtype == torch.float32 for t in tensors(state_of(out)["model"]).values())
        losses[precision] = [line["loss"] for line in log_of(out)]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_training_stops_early_when_nothing_gets_better(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--epochs", 50, "--evaluate-every", 1, "--patience", 2, "--metric", "f1_macro", *QUICK]
    options.append("--no-head-first")
    trains("finetune", data[0], "--dev", data[1], "-m", base, "-o", out, *options, "--learning-rate", 1e-9)
    evaluations = [line for line in log_of(out) if "dev" in line]
    best = summary_of(out)["best"]["step"]
    assert len(evaluations) == best + 2 == summary_of(out)["steps"] < 50


@pytest.mark.parametrize("average", [0, 0.9])
def test_the_best_model_is_kept_not_the_last(
    average: float, base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--epochs", 3, "--metric", "loss", *QUICK, "--learning-rate", 0.5, "--max-gradient-norm", 0]
    options += ["--average", average]
    trains("finetune", data[0], "--dev", data[1], "-m", base, "-o", out, *options)
    by_step = {line["step"]: line["dev"]["loss"] for line in log_of(out) if "dev" in line}
    best = summary_of(out)["best"]
    assert best["dev"]["loss"] == min(by_step.values()) == by_step[best["step"]]
    assert json.loads(succeeds("evaluate", data[1], "-m", out, "--json"))["float32"]["loss"] == pytest.approx(
        best["dev"]["loss"], rel=1e-4
    )


def test_an_average_is_what_is_kept(base: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    trains("finetune", data[0], "-m", base, "-o", out, "--average", 0.9, "--max-steps", 5, *QUICK)
    state, kept = state_of(out), load_file(out / "model.safetensors")
    averaged = {name.removeprefix("module."): tensor for name, tensor in state["average"].items()}
    assert int(averaged.pop("n_averaged")) == 5
    assert kept.keys() <= averaged.keys()
    assert all(torch.equal(kept[name], averaged[name]) for name in kept)
    assert not any(torch.equal(kept[name], state["model"][name]) for name in kept if "bias" in name)


def test_a_moving_average_forgets_the_first_steps_soon(base: Path) -> None:
    model = SqueezeBertModel.from_pretrained(base)
    weight = model.pooler.dense.weight
    average = moving_average(model, 0.5)
    expected = None
    for step in range(8):
        with torch.no_grad():
            weight.fill_(float(step**2))
        average.update_parameters(model)
        decay = 0.0 if expected is None else min(0.5, (1 + step) / (5 + step))
        expected = decay * (expected or 0.0) + (1 - decay) * step**2
        torch.testing.assert_close(average.module.pooler.dense.weight, torch.full_like(weight, expected))


def test_labels_that_a_checkpoint_knows_keep_their_ids_and_other_labels_get_a_new_head(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    base = save_base(SqueezeBertForSequenceClassification, tmp_path / "b", id2label={0: "pos", 1: "neg"})
    assert run("finetune", data[0], "-m", base, "-o", tmp_path / "o", "--max-steps", 1, *QUICK).stderr == ""
    assert SqueezeBertConfig.from_json_file(tmp_path / "o" / "config.json").label2id == {"pos": 0, "neg": 1}
    three = write_tsv(tmp_path / "3.tsv", [("good", "2"), ("bad", "10"), ("so", "1")])
    trains("finetune", three, "-m", base, "-o", tmp_path / "p", "--max-steps", 1, *QUICK)
    assert SqueezeBertConfig.from_json_file(tmp_path / "p" / "config.json").id2label == {
        0: "1",
        1: "2",
        2: "10",
    }


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("text\tlabel\na\tx\nb\n", [], "train.tsv, line 3: 1 field, expected 2"),
        ("text\tlabel\na\tx\nb\t\n", [], "train.tsv, line 3: 'label' is empty"),
        ("text\tlabel\na\tx\n", [], "every label of the training data is 'x'"),
        ("text\tlabel\na\tx\nb\ty\n", ["--label-column", "class"], "no column 'class'; it has text, label"),
        (
            "text\tlabel\na\t1\nb\tx\n",
            ["--task", "regression"],
            "line 3: the label is 'x', expected a finite",
        ),
        ("text\tlabel\na\t1\nb\tinf\n", ["--task", "regression"], "line 3: the label is 'inf'"),
        ("", [], "holds no texts"),
        ("text\tlabel\na\tx\nb\ty\n", ["--task", "sorting"], "the task is 'sorting', expected one of"),
        ("text\tlabel\na\tx\nb\ty\n", ["--max-length", 49], "max_length is 49, but the model takes 48"),
        ("text\tlabel\na\tx\nb\ty\n", ["--learning-rate", "inf"], "learning_rate is inf"),
        ("text\tlabel\na\tx\nb\ty\n", ["--learning-rate", 0], "learning_rate is 0"),
        ("text\tlabel\na\tx\nb\ty\n", ["--warmup", 2], "warmup is 2.0"),
        ("text\tlabel\na\tx\nb\ty\n", ["--average", 1], "average is 1.0, expected a decay from 0 to below 1"),
        ("text\tlabel\na\tx\nb\ty\n", ["--precision", "int8"], "precision is 'int8'"),
        (
            "text\tlabel\na\tx\nb\ty\n",
            ["--metric", "bleu"],
            "metric is 'bleu', expected one of loss, accuracy",
        ),
        ("text\tlabel\na\tx\nb\ty\nc\tz\n", ["--metric", "f1"], "metric is 'f1', expected one of"),
        ("text\tlabel\na\tx\nb\ty\n", ["--metric", "loss"], "metric means nothing without dev data"),
        ("text\tlabel\na\tx\nb\ty\n", ["--patience", 1], "patience means nothing without dev data"),
        ("text\tlabel\na\tx\nb\ty\n", ["--evaluate-every", 1], "evaluate_every means nothing without dev"),
        ("text\tlabel\na\tx\nb\ty\n", ["--batch-size", 0], "--batch-size"),
        ("text\tlabel\na\tx\nb\ty\n", ["--dev", "none.tsv"], "none.tsv doesn't exist"),
        ("text\tlabel\na\tx\nb\ty\n", ["--layers", 2], "give either --model, or the sizes"),
        ("text\tlabel\na\tx\nb\ty\n", ["-o", ""], "the directory's name is empty"),
        ("text\tlabel\na\tx\nb\ty\n", ["--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_written(
    content: str, arguments: list[Any], said: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.tsv").write_text(content)
    refuses("finetune", "train.tsv", "-m", base, "-o", "out", *arguments, said=said)
    assert not Path("out").exists()


def test_a_label_that_training_does_not_know_is_refused_with_its_line(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    dev = write_tsv(tmp_path / "dev2.tsv", [("good", "pos"), ("so", "neutral")])
    refuses(
        "finetune", data[0], "--dev", dev, "-m", base, "-o", tmp_path / "out",
        said="dev2.tsv, line 3: the label 'neutral' is not one of 'neg', 'pos'",
    )  # fmt: skip


def test_models_that_cannot_be_trained_are_refused(data: tuple[Path, Path], tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "m")
    save_quantized(SqueezeBertForSequenceClassification.from_pretrained(model), tmp_path / "int8")
    SqueezeBertTokenizerFast.from_pretrained(model).save_pretrained(tmp_path / "int8")
    out = tmp_path / "out"
    refuses("finetune", data[0], "-m", tmp_path / "int8", "-o", out, said="is an int8 checkpoint")
    refuses("finetune", data[0], "-m", tmp_path / "none", "-o", out, said="is not a directory")
    refuses("finetune", "-", "-m", model, "-o", out, said="can't come from a pipe, standard input: a resumed")
    os.mkfifo(tmp_path / "pipe")
    refuses("finetune", tmp_path / "pipe", "-m", model, "-o", out, said=f"from a pipe, {tmp_path / 'pipe'}: ")
    small = save_base(SqueezeBertModel, tmp_path / "small", vocab_size=8)
    refuses("finetune", data[0], "-m", small, "-o", out, "--max-length", 32, said="vocab_size is 8")
    refuses("finetune", data[0], "-o", out, said="give either --model, or the sizes")
    refuses("finetune", data[0], "-o", out, "--layers", 1, said="needs a vocabulary")
    assert not out.exists()


def test_an_output_that_holds_files_is_kept_unless_told_otherwise(
    base: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    command = ["finetune", data[0], "-m", base, "-o", out, "--max-steps", 1, *QUICK]
    refuses(*command, said="holds files already; --overwrite starts anew")
    refuses(*command, "--resume", said="holds no run to resume, but files; --overwrite in place of --resume")
    trains(*command, "--overwrite")
    before = {name: (out / name).read_bytes() for name in MODEL_FILES}
    refuses(*command, said="holds a run already; --resume continues it, --overwrite starts anew")
    assert {name: (out / name).read_bytes() for name in MODEL_FILES} == before
    trains(*command, "--overwrite", "--seed", 9)
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert (out / "mine.txt").read_text() == "precious"
    (tmp_path / "file").write_text("x")
    refuses("finetune", data[0], "-m", base, "-o", tmp_path / "file", said="is a file, expected a folder")
