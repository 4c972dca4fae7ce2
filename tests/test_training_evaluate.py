"""`evaluate`, `average` and `quantize`: from a file to a measured int8 model, in three commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from squeezebert_fast import (
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
)
from squeezebert_fast.backends import cpu
from tests.cli_helpers import refuses, succeeds
from tests.training_helpers import opinions, save_base, summary_of, trains, write_tsv

needs_native = pytest.mark.skipif(
    cpu.native_module_missing() is not None, reason="the native module is not built"
)


@needs_native
def test_from_a_table_to_a_measured_int8_model(tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    train, dev = (
        write_tsv(tmp_path / f"{n}.tsv", opinions(c, s)) for n, c, s in (("train", 128, 1), ("dev", 48, 2))
    )
    model, int8 = tmp_path / "model", tmp_path / "model-int8"
    how = ["--epochs", 6, "--batch-size", 16, "--learning-rate", 2e-2, "--threads", 1]
    trains("finetune", train, "--dev", dev, "-m", base, "-o", model, *how, "--no-head-first")
    both = json.loads(
        succeeds("evaluate", dev, "-m", model, "--precision", "float32, bfloat16,int8", "--json")
    )
    assert list(both) == ["float32", "bfloat16", "int8"]
    assert both["float32"]["accuracy"] == summary_of(model)["best"]["dev"]["accuracy"]
    assert both["float32"]["loss"] != both["int8"]["loss"]  # they did run in other numbers
    assert both["int8"]["loss"] == pytest.approx(both["float32"]["loss"], abs=0.1)

    assert "SqueezeBertForSequenceClassification" in succeeds("quantize", model, int8)
    assert json.loads(succeeds("evaluate", dev, "-m", int8, "--json")) == {"int8": both["int8"]}
    restored = json.loads(succeeds("evaluate", dev, "-m", int8, "--precision", "float32,int8", "--json"))
    assert restored["int8"]["loss"] == pytest.approx(both["int8"]["loss"], abs=1e-3)
    assert restored["float32"]["loss"] not in (both["float32"]["loss"], both["int8"]["loss"])
    assert restored["float32"]["loss"] == pytest.approx(both["float32"]["loss"], abs=0.1)
    table = succeeds("evaluate", dev, "-m", int8)
    assert f"{both['int8']['accuracy']:.4f}" in table
    assert table.startswith("classification, 48 examples of")
    texts = write_tsv(tmp_path / "texts.tsv", opinions(5, 9))
    assert len(succeeds("predict", "-m", int8, texts).splitlines()) == 5


def test_quantizing_refuses_what_it_would_spoil(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model")
    refuses("quantize", model, model, said="holds files already; --force")
    refuses("quantize", model, model, "--force", said="holds a float model, model.safetensors")
    refuses("quantize", tmp_path / "none", tmp_path / "to", said="is not a directory")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["Other"]}))
    refuses("quantize", model, tmp_path / "to", said="is a Other, which is no model of this package")
    assert not (tmp_path / "to").exists()


def test_an_average_of_models_is_a_model_with_the_mean_of_their_parameters(tmp_path: Path) -> None:
    sources = [
        save_base(SqueezeBertForSequenceClassification, tmp_path / str(seed), seed=seed) for seed in range(3)
    ]
    said = succeeds("average", *sources, "-o", tmp_path / "mean")
    kind = "SqueezeBertForSequenceClassification, 0.0 M parameters"
    assert said == f"{tmp_path / 'mean'}: {kind}, the average of 3\n"
    mean, *parts = (load_file(folder / "model.safetensors") for folder in (tmp_path / "mean", *sources))
    for name, tensor in mean.items():
        exact = torch.stack([part[name].double() for part in parts]).mean(0)
        assert torch.equal(tensor, exact.float()), name
    assert (
        len(
            succeeds(
                "predict", "-m", tmp_path / "mean", write_tsv(tmp_path / "t.tsv", opinions(5, 9))
            ).splitlines()
        )
        == 5
    )


def test_only_models_that_are_alike_are_averaged(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model")
    to = ["-o", tmp_path / "to"]
    refuses("average", model, *to, said="1 model is given, expected two or more")
    refuses("average", model, model, "-o", model, said="holds files already; --force")
    refuses("average", model, tmp_path / "none", *to, said="is not a directory")
    other = save_base(SqueezeBertModel, tmp_path / "encoder")
    refuses("average", model, other, *to, said="encoder is a SqueezeBertModel, but ")
    wider = save_base(SqueezeBertForSequenceClassification, tmp_path / "wider", hidden_size=32)
    refuses("average", model, wider, *to, said=f"hidden_size of {wider} is 32, but 16 of {model}")
    named = save_base(SqueezeBertForSequenceClassification, tmp_path / "named", id2label={0: "a", 1: "b"})
    refuses("average", model, named, *to, said=f"id2label of {named} is ")
    int8 = tmp_path / "int8"
    succeeds("quantize", model, int8)
    refuses("average", model, int8, *to, said=f"{int8} is an int8 checkpoint, which can't be averaged")
    words = save_base(SqueezeBertForSequenceClassification, tmp_path / "words")
    lines = (words / "vocab.txt").read_text().splitlines()
    (words / "vocab.txt").write_text("\n".join([*lines[:5], *lines[:4:-1]]) + "\n")
    SqueezeBertTokenizerFast(words / "vocab.txt").save_pretrained(words)
    refuses("average", model, words, *to, said="have different vocabularies")
    assert not (tmp_path / "to").exists()


def test_predictions_never_replace_the_data(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model", id2label={0: "a", 1: "b"})
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "1.csv"
    path.write_text("text,label\ngood,a\n")
    for source in (path, tmp_path / "data", tmp_path / "data" / "*.csv"):
        refuses("evaluate", source, "-m", model, "--predictions", path, said="is the input")
    assert path.read_text() == "text,label\ngood,a\n"


def test_unlabelled_or_unknown_labels_cannot_be_measured(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model", id2label={0: "a", 1: "b"})
    path = write_tsv(tmp_path / "t.tsv", [("good", "a"), ("bad", "c")])
    refuses("evaluate", path, "-m", model, said="t.tsv, line 3: the label 'c' is not one of 'a', 'b'")
    (tmp_path / "t.txt").write_text("good\n")
    refuses("evaluate", tmp_path / "t.txt", "-m", model, said="have no columns")
