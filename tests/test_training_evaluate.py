"""`evaluate` and `quantize`: the way from a file to a measured int8 model, in three commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertModel
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
    trains("finetune", train, "--dev", dev, "-m", base, "-o", model, *how)
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


def test_unlabelled_or_unknown_labels_cannot_be_measured(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model", id2label={0: "a", 1: "b"})
    path = write_tsv(tmp_path / "t.tsv", [("good", "a"), ("bad", "c")])
    refuses("evaluate", path, "-m", model, said="t.tsv, line 3: the label 'c' is not one of 'a', 'b'")
    (tmp_path / "t.txt").write_text("good\n")
    refuses("evaluate", tmp_path / "t.txt", "-m", model, said="have no columns")
