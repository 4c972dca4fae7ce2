"""Commands take transformers' own folders, and give what transformers gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import squeezebert_fast
from squeezebert_fast.answering.running import load_engine
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.patching.encoder import AcceleratedEncoder
from squeezebert_fast.patching.swapping import SETTINGS
from tests.cli_helpers import benched, refuses, run, succeeds
from tests.fake_hub import FakeHub
from tests.slow import slow
from tests.training_helpers import write_tsv
from tests.transformers_folders import (
    MODEL_TYPES,
    make_sentence_folder,
    save_folder,
    transformers_class,
    write_json,
)

TEXTS = ("it was a good film", "and so on that we saw who lives in rome", "zzz", "bob")
LINES = "\n".join(TEXTS) + "\n"

Folders = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a model type and head, made once."""
    root = tmp_path_factory.mktemp("folders")

    def folder(model_type: str, head: str) -> Path:
        path = root / model_type / head
        return path if path.exists() else save_folder(model_type, head, path)

    return folder


def outputs(folder: Path, model_type: str, head: str, text: str) -> Any:
    """Of transformers alone, for a text by itself."""
    model = transformers_class(model_type, head).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt"))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_predict_gives_transformers_labels(folders: Folders, model_type: str) -> None:
    folder = folders(model_type, "ForSequenceClassification")
    rows = [json.loads(row) for row in succeeds("predict", "-m", folder, "-", stdin=LINES).splitlines()]
    for text, row in zip(TEXTS, rows, strict=True):
        best = outputs(folder, model_type, "ForSequenceClassification", text).logits[0].softmax(-1).max(-1)
        assert row["label"] == f"LABEL_{int(best.indices)}"
        assert row["score"] == pytest.approx(float(best.values), abs=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embed_pools_transformers_hidden_states(
    folders: Folders, model_type: str, pooling: str, tmp_path: Path
) -> None:
    folder = folders(model_type, "Model")
    succeeds("embed", "-m", folder, "-", "-o", tmp_path / "v.npy", "--pooling", pooling, stdin=LINES)
    for text, vector in zip(TEXTS, np.load(tmp_path / "v.npy"), strict=True):
        hidden = outputs(folder, model_type, "Model", text).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "mean" else hidden[0]
        torch.testing.assert_close(torch.from_numpy(vector), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_fill_mask_gives_transformers_words(folders: Folders, model_type: str) -> None:
    folder = folders(model_type, "ForMaskedLM")
    mask = transformers.AutoTokenizer.from_pretrained(folder).mask_token
    text = f"it was a {mask} film"
    fills = json.loads(succeeds("fill-mask", "-m", folder, text, "--json", "--top-k", 3))[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    place = tokenizer(text)["input_ids"].index(tokenizer.mask_token_id)
    best = outputs(folder, model_type, "ForMaskedLM", text).logits[0, place].softmax(-1).topk(3)
    assert [fill["token"] for fill in fills] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
    assert [fill["score"] for fill in fills] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_model_is_patched_in_the_precision_asked_for(folders: Folders, model_type: str) -> None:
    options: dict[str, Any] = {"backend": "cpu", "threads": None, "precision": "int8"}
    engine = load_engine(SqueezeBertModel, str(folders(model_type, "Model")), **options)
    encoders = [module for module in engine.model.modules() if isinstance(module, AcceleratedEncoder)]
    assert [encoder.__dict__[SETTINGS].precision for encoder in encoders] == ["int8"]
    assert "one call for all layers in inference" in str(squeezebert_fast.explain(engine.model))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_quantize_writes_what_every_command_takes(folders: Folders, model_type: str, tmp_path: Path) -> None:
    folder = folders(model_type, "ForSequenceClassification")
    assert "0.1 M parameters" in succeeds("quantize", folder, tmp_path / "int8")
    shutil.copytree(folder, tmp_path / "float")
    as_int8 = succeeds("predict", "-m", tmp_path / "int8", "-", stdin=LINES)
    assert as_int8 == succeeds("predict", "-m", folder, "-", "--precision", "int8", stdin=LINES)
    succeeds("embed", "-m", tmp_path / "int8", "-", "-o", tmp_path / "v.npy", stdin=LINES)
    succeeds("predict", "-m", tmp_path / "int8", "-", "--backend", "reference", stdin=LINES)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_bench_times_it_beside_transformers(folders: Folders, model_type: str, tmp_path: Path) -> None:
    options = ["--shapes", "1x8", "--repeats", 1, "--precision", "float32,int8"]
    model = folders(model_type, "Model")
    data = benched(tmp_path / "b.json", "-m", model, "--backends", "transformers,cpu", *options)
    case = data["cases"][0]
    assert [each["name"] for each in case["candidates"]] == ["transformers", "cpu", "cpu int8"]
    layer = 4 * 64 * 64 + 2 * 64 * 128 + 2 * 8 * 64
    assert case["flops"] == 2 * 2 * layer * 8


def test_positions_behind_the_padding_are_no_room_for_tokens(folders: Folders) -> None:
    """A RoBERTa of 66 positions takes 64 tokens."""
    folder = folders("roberta", "ForSequenceClassification")
    long = "film " * 300
    succeeds("predict", "-m", folder, "-", stdin=long + "\n")
    refuses("predict", "-m", folder, "-", "--max-length", 65, said="takes 64 tokens at most", stdin="a\n")


def test_a_model_of_half_precision_runs_in_float32(folders: Folders, tmp_path: Path) -> None:
    model = transformers_class("bert", "Model").from_pretrained(folders("bert", "Model")).half()
    model.save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders("bert", "Model") / name, tmp_path / "half" / name)
    engine = load_engine(SqueezeBertModel, str(tmp_path / "half"), backend="cpu", threads=None)
    assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **fields})


def test_what_is_no_such_model_is_refused_in_a_line(folders: Folders, tmp_path: Path) -> None:
    def refused(folder: Path, said: str) -> None:
        refuses("predict", "-m", folder, "-", said=said, stdin="a\n")

    refused(folders("bert", "Model"), "is a BertModel, expected a model for one of sequence classification")
    refused(folders("bert", "ForMaskedLM"), "is a BertForMaskedLM, expected a model for one of sequence")
    whole = folders("bert", "ForSequenceClassification")
    other = copy(whole, tmp_path / "other")
    change_config(other, model_type="gpt2")
    refused(other, "model_type 'gpt2', expected one of squeezebert, bert")
    damaged = copy(whole, tmp_path / "damaged")
    change_config(damaged, num_hidden_layers="two")
    refused(damaged, "transformers can't load")
    mismatched = copy(whole, tmp_path / "mismatched")
    change_config(mismatched, intermediate_size=64)
    refused(mismatched, "or has it in another shape")
    deeper = copy(whole, tmp_path / "deeper")
    change_config(deeper, num_hidden_layers=3)
    refused(deeper, "lacks the model's bert.encoder.layer.2")
    wordless = copy(whole, tmp_path / "wordless")
    for name in ("tokenizer.json", "vocab.txt"):
        (wordless / name).unlink(missing_ok=True)
    refused(wordless, "has no tokenizer: none of tokenizer.json, vocab.txt")
    broken = copy(whole, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    refused(broken, "transformers can't load")
    headless = copy(folders("bert", "Model"), tmp_path / "headless")
    change_config(headless, architectures=["BertForSequenceClassification"])
    refused(headless, "has no weights classifier.bias and so isn't a BertForSequenceClassification")


def test_pickles_that_run_code_are_not_loaded(folders: Folders, tmp_path: Path) -> None:
    folder = copy(folders("bert", "ForSequenceClassification"), tmp_path / "m")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"classifier.bias": Evil()}, folder / "pytorch_model.bin")
    refuses("predict", "-m", folder, "-", said="transformers can't load", stdin="a\n")
    assert not (tmp_path / "ran").exists()


def test_code_that_a_folder_brings_along_is_not_run(folders: Folders, tmp_path: Path) -> None:
    folder = copy(folders("bert", "ForSequenceClassification"), tmp_path / "m")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    classes = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"}
    change_config(folder, auto_map=classes)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    write_json(folder / "tokenizer_config.json", config)
    result = run("predict", "-m", folder, "-", stdin="a\n")
    assert result.exit_code in (0, 2), result.exception
    assert not (tmp_path / "ran").exists()


def test_without_transformers_the_extra_is_named(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders("bert", "ForSequenceClassification")
    monkeypatch.setitem(sys.modules, "transformers", None)
    table = write_tsv(tmp_path / "t.tsv", [("a", "x"), ("b", "y")])
    for command in (
        ["predict"],
        ["evaluate"],
        ["finetune", "-o", tmp_path / "o"],
        ["embed", "-o", tmp_path / "v"],
    ):
        refuses(*command, "-m", folder, table, said="pip install squeezebert-fast[transformers]")
    assert [path.name for path in tmp_path.iterdir()] == ["t.tsv"]


@pytest.mark.parametrize("sentences", slow([False, True], but=[False]))
def test_a_model_on_the_hub_is_taken_by_its_name(folders: Folders, sentences: bool, tmp_path: Path) -> None:
    folder = folders("roberta", "ForSequenceClassification")
    if sentences:
        folder = make_sentence_folder(tmp_path / "m", "roberta", inside="0_Transformer", normalize=True)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = (
        ["embed", "-", "-o", "v.npy", "-m"] if sentences else ["predict", "-", "--output", "o.jsonl", "-m"]
    )
    with FakeHub() as hub:
        hub.push("team/model", files)
        ours = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
        program = [sys.executable, "-c", "from squeezebert_fast.cli import main; main()", *command]
        for model in ("team/model", str(folder)):
            where = tmp_path / model.replace("/", "-")
            where.mkdir()
            done = subprocess.run(
                [*program, model],
                cwd=where,
                env={**os.environ, **ours},
                input=LINES,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
    results = [
        next(path.iterdir()).read_bytes() for path in tmp_path.iterdir() if path.name not in ("m", "cache")
    ]
    assert len(results) == 2
    assert results[0] == results[1]
