"""The model that comes with the package: it is there, it is small, it knows good from bad."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

import squeezebert_fast
from squeezebert_fast import (
    SENTIMENT_MODEL,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    SqueezeBertTokenizerFast,
    load_quantized,
)
from squeezebert_fast.backends import cpu
from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.loading.int8_file import INT8_NAME
from squeezebert_fast.shipped import SENTIMENT, directory_of
from tests.cli_helpers import succeeds

ROOT = Path(__file__).parents[1]
CARD = SENTIMENT_MODEL / "README.md"
HELD_OUT = {"sentiments.tsv": 1, "heldout_sentiments.tsv": 2}  # and the columns of the card's table, from 0
needs_native = pytest.mark.skipif(
    cpu.native_module_missing() is not None, reason="the native module is not built"
)


def read(name: str) -> list[dict[str, str]]:
    """A table of the examples."""
    with (ROOT / "examples" / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return read("sentiments.tsv")


@pytest.fixture(scope="module")
def floats() -> SqueezeBertForSequenceClassification:
    return SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)


def logits(model: SqueezeBertForSequenceClassification, texts: list[str]) -> torch.Tensor:
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    with torch.inference_mode():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def test_it_lies_in_the_package_and_is_small() -> None:
    assert SENTIMENT_MODEL.is_relative_to(Path(squeezebert_fast.__file__).parent)
    assert sum(path.stat().st_size for path in SENTIMENT_MODEL.iterdir()) < 12e6
    assert (SENTIMENT_MODEL / INT8_NAME).is_file()


def test_it_has_names_for_its_labels_and_a_vocabulary_of_its_own() -> None:
    config = json.loads((SENTIMENT_MODEL / "config.json").read_text())
    assert config["squeezebert_fast"]["column"] == "text"
    assert config["squeezebert_fast"]["max_length"] == config["max_position_embeddings"] == 512
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    assert len(tokenizer) == config["vocab_size"] < 30_522
    said = tokenizer.tokenize("A phantasmagorical, unputdownable déjà-vu of 1987!")
    assert "[UNK]" not in said


@needs_native
@pytest.mark.parametrize("name", HELD_OUT)
def test_it_is_as_accurate_on_sentences_it_never_saw_as_its_card_says(name: str) -> None:
    """What it was trained with is kept, so that `evaluate` needs no options."""
    _, table = CARD.read_text(encoding="utf-8").split("| accuracy |")
    said = re.search(r"(?m)^\| shipped, int8 \|(.*)\|$", table)
    assert said is not None
    claimed = float(said[1].split("|")[HELD_OUT[name]])
    report = json.loads(succeeds("evaluate", ROOT / "examples" / name, "-m", SENTIMENT_MODEL, "--json"))
    # By so many sentences, since other CPUs round otherwise. Of the 200, float32 has one fewer right than the card's
    # int8; int8 with attention in bfloat16, as on matrix units, has two.
    sentences = 2 if cpu.scores_precision("int8") == "bfloat16" else 1
    assert abs(report["int8"]["accuracy"] - claimed) < (sentences + 0.5) / len(read(name))


@needs_native
def test_predict_uses_it_without_a_model(rows: list[dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(row["text"] for row in rows) + "\n")
    said = [json.loads(line) for line in succeeds("predict", path).splitlines()]
    right = sum(one["label"] == row["label"] for one, row in zip(said, rows, strict=True))
    assert right >= 0.87 * len(rows)
    assert all(0.5 <= one["score"] <= 1 for one in said)


@needs_native
def test_int8_and_float32_agree(
    rows: list[dict[str, str]], floats: SqueezeBertForSequenceClassification
) -> None:
    texts = [row["text"] for row in rows]
    exact = logits(floats, texts).softmax(-1)
    int8 = logits(SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL), texts).softmax(-1)
    assert (exact - int8).abs().mean() < 0.02
    assert (exact.argmax(-1) == int8.argmax(-1)).float().mean() >= 0.95


def test_in_pytorch_alone_it_says_the_same_of_obvious_sentences(
    floats: SqueezeBertForSequenceClassification,
) -> None:
    answers = logits(floats, ["A charming, delightful film.", "It was terrible and boring."]).argmax(-1)
    assert [(floats.config.id2label or {})[index] for index in answers.tolist()] == ["positive", "negative"]


def test_its_card_tells_what_the_files_are() -> None:
    card = CARD.read_text(encoding="utf-8")
    for said in (
        "Apache-2.0",
        "all-MiniLM-L6-v2",
        "SST-2",
        "language model",
        "int8",
        "Limits",
        "train_sentiment.sh",
    ):
        assert said in card
    config = json.loads((SENTIMENT_MODEL / "config.json").read_text())
    assert re.search(rf"{config['num_hidden_layers']} layers", card)


@pytest.mark.parametrize("name", HELD_OUT)
def test_the_sentences_it_is_tested_on_are_balanced_and_differ(name: str) -> None:
    rows = read(name)
    labels = [row["label"] for row in rows]
    assert labels.count("positive") == labels.count("negative") == len(rows) / 2 >= 25
    assert len({row["text"] for row in rows}) == len(rows)


def test_a_name_stands_for_its_directory_wherever_a_model_is_named() -> None:
    assert directory_of(SENTIMENT) == SENTIMENT_MODEL
    assert directory_of("bert-base-uncased") == "bert-base-uncased"
    config = SqueezeBertConfig.from_pretrained(SENTIMENT)
    assert config.to_dict() == SqueezeBertConfig.from_pretrained(SENTIMENT_MODEL).to_dict()
    with pytest.raises(CheckpointError, match="no model of the name shipped:other"):
        load_quantized("shipped:other")
