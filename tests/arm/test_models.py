"""Patched models on the emulated CPU's builds, against PyTorch's own operations there, and float64."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch

import squeezebert_fast
from squeezebert_fast import SENTIMENT_MODEL, SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast
from squeezebert_fast.backends import cpu
from tests.arm.models import batch, logits, on_every_build, patched, small_model
from tests.engine_emulation import assert_emulated
from tests.helpers import assert_within_rule

SENTENCES = Path(__file__).parents[2] / "examples" / "sentiments.tsv"
FEW = 16


@on_every_build
def test_float32_is_as_exact_as_pytorch(build: str) -> None:
    model, inputs = small_model(), batch()
    exact = logits(copy.deepcopy(model).double(), **inputs)
    with cpu.use_instruction_set(build):
        actual = logits(patched(model), **inputs)
    assert_within_rule(actual, logits(model, **inputs), exact, whole_model=True)


@on_every_build
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precisions_round_where_they_should(precision: str, build: str) -> None:
    encoder = small_model().transformer.encoder
    x = torch.randn(24, 5, 64, generator=torch.Generator().manual_seed(2))
    with cpu.use_instruction_set(build), torch.inference_mode():
        actual = patched(encoder, precision)(x)[0]
        assert_emulated(actual, encoder, x, None, precision, share=0.5)


@on_every_build
@pytest.mark.parametrize("precision", cpu.PRECISIONS)
def test_a_sequence_has_the_same_bits_alone_padded_and_on_two_threads(precision: str, build: str) -> None:
    inputs = batch()
    with cpu.use_instruction_set(build):
        model = patched(small_model(), precision)
        together = logits(model, **inputs)
        for i, keep in enumerate(inputs["attention_mask"].bool()):
            assert torch.equal(logits(model, input_ids=inputs["input_ids"][i : i + 1, keep])[0], together[i])
        torch.set_num_threads(2)
        try:
            assert torch.equal(logits(model, **inputs), together)
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize("precision", cpu.PRECISIONS)
def test_what_is_saved_is_loaded_to_the_same_bits(precision: str, tmp_path: Path) -> None:
    model, inputs = small_model(), batch()
    expected = logits(patched(model, precision), **inputs)
    if precision == "int8":
        squeezebert_fast.save_quantized(model, tmp_path)
        loaded = SqueezeBertForSequenceClassification.from_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path)
        loaded = patched(SqueezeBertForSequenceClassification.from_pretrained(tmp_path), precision)
    assert torch.equal(logits(loaded, **inputs), expected)


def test_the_shipped_model_knows_real_sentences() -> None:
    with SENTENCES.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[:FEW]
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    floats = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)
    expected = logits(floats, **inputs)
    int8 = logits(SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL), **inputs)
    float32 = logits(patched(floats), **inputs)
    labels = [floats.config.id2label[i] for i in int8.argmax(-1).tolist()]
    assert [label == row["label"] for label, row in zip(labels, rows, strict=True)].count(False) <= 1
    assert torch.allclose(float32, expected, atol=1e-4)
    assert (int8 - expected).abs().max() < 0.2 * expected.abs().max()
