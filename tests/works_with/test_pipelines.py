"""transformers' pipelines over its own models, patched in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import squeezebert_fast
from tests.works_with.helpers import model_of

WORDS = ["the", "film", "was", "good", "bad", "and", "a", "very", "long", "word", "of", "[MASK]", "here"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *[w for w in WORDS if w != "[MASK]"]]
TEXTS = ["the film was very good", "a bad [MASK] of the word", "long"]
TASKS = {
    "text-classification": ("SqueezeBertForSequenceClassification", {}),
    "token-classification": ("SqueezeBertForTokenClassification", {}),
    "fill-mask": ("SqueezeBertForMaskedLM", {"targets": ["good", "bad"]}),
    "feature-extraction": ("SqueezeBertModel", {}),
    "zero-shot-classification": (
        "SqueezeBertForSequenceClassification",
        {"candidate_labels": ["good", "bad"]},
    ),
}


def close(a: Any, b: Any) -> bool:
    """The same structure with the same texts and nearly the same numbers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(close, a, b))
    return a == b or (not isinstance(a, str) and a == pytest.approx(b, rel=2e-4, abs=2e-4))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pipeline_answers_as_before_patch(batch_size: int, task: str) -> None:
    name, options = TASKS[task]
    model = model_of("theirs", name)
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = transformers.SqueezeBertTokenizer(vocab=vocabulary)
    pipeline: Any = transformers.pipeline(task, model=model, tokenizer=tokenizer, batch_size=batch_size)
    texts = [text for text in TEXTS if task != "fill-mask" or "[MASK]" in text]
    with torch.no_grad():
        expected = pipeline(texts, **options)
        assert pipeline.model is squeezebert_fast.patch(pipeline.model)
        actual = pipeline(texts, **options)
    assert close(actual, expected), f"{actual} instead of {expected}"
