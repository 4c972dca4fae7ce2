"""squeezebert-run's library on an emulated CPU has the bits of the Python package there. Needs `make runtime-arm`."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from squeezebert_fast import SENTIMENT_MODEL, SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast
from squeezebert_fast.backends import cpu
from tests.runtime.library import BUILT_VARIABLE, RuntimeModel

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build" / "runtime-aarch64"
SENTENCES = ROOT / "examples" / "sentiments.tsv"
FEW = 16


@pytest.mark.parametrize("build", cpu.instruction_sets())
def test_real_sentences_by_the_shipped_model(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (LIBRARY / "libsqueezebert.so").exists():
        pytest.skip("needs make runtime-arm")
    monkeypatch.setenv(BUILT_VARIABLE, str(LIBRARY))
    monkeypatch.setenv(cpu.ISA_VARIABLE, build)
    with SENTENCES.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[:FEW]
    ours = RuntimeModel(SENTIMENT_MODEL)
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    with cpu.use_instruction_set(build), torch.inference_mode():
        model = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL)
        for row in rows:
            inputs = tokenizer(row["text"], return_tensors="pt")
            ids, types = ours.tokenize(row["text"])
            assert [ids] == inputs["input_ids"].tolist()
            states = model.transformer(**inputs).last_hidden_state.flatten()
            assert torch.equal(torch.tensor(ours.hidden_states(ids, types)), states)
            assert torch.equal(torch.tensor(ours.classify(row["text"])[0]), model(**inputs).logits[0])
