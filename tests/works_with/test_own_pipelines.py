"""transformers' pipelines run this package's models and tokenizers with the results of transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import squeezebert_fast
from squeezebert_fast import SENTIMENT_MODEL
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from tests.model_pairs import pair, tiny_config

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox jumps over lazy dog in paris who where ? . ##s"
SENTENCES = ["The quick brown fox jumps.", "Foxs in Paris", "the lazy dog."]
QUESTION = {
    "question": "Where jumps the fox?",
    "context": "The quick brown fox jumps over the lazy dog in Paris.",
}
LABELS = {0: "O", 1: "B-LOC", 2: "I-LOC"}
TASKS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "text-classification": (
        "SqueezeBertForSequenceClassification",
        SENTENCES,
        {"top_k": None, "batch_size": 2},
    ),
    "token-classification": (
        "SqueezeBertForTokenClassification",
        SENTENCES,
        {"aggregation_strategy": "simple"},
    ),
    "fill-mask": ("SqueezeBertForMaskedLM", "The quick [MASK] fox.", {"top_k": 4}),
    "feature-extraction": ("SqueezeBertModel", SENTENCES, {}),
    "zero-shot-classification": (
        "SqueezeBertForSequenceClassification",
        SENTENCES,
        {"candidate_labels": ["fox", "dog"]},
    ),
    "question-answering": ("SqueezeBertForQuestionAnswering", QUESTION, {"top_k": 3}),
}


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(WORDS.split()) + "\n")
    return path


@pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])
@pytest.mark.parametrize("task", [task for task in TASKS if task in PIPELINE_REGISTRY.get_supported_tasks()])
def test_a_pipeline_gives_what_it_gives_for_transformers_model(task: str, patched: bool, vocab: Path) -> None:
    name, inputs, options = TASKS[task]
    labels = {} if name.endswith("QuestionAnswering") else {"id2label": LABELS}
    if task == "zero-shot-classification":
        labels = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
    ours, theirs = pair(
        name, tiny_config(vocab_size=len(WORDS.split()), max_position_embeddings=64, **labels)
    )
    if patched:
        squeezebert_fast.patch(ours)
    # This pipeline takes the first of a model's outputs, and keeps their order for transformers' own class alone.
    ours.config.return_dict = task != "feature-extraction"
    reference = transformers.SqueezeBertTokenizerFast(str(vocab))
    expected = run(task, theirs, reference, inputs, options)
    actual = run(task, ours, SqueezeBertTokenizerFast(vocab), inputs, options)
    assert_close(actual, expected)


def test_a_pipeline_runs_the_shipped_int8_model_on_the_device_that_it_is_told() -> None:
    model = squeezebert_fast.SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL)
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    answers = run("text-classification", model, tokenizer, ["a great film", "an awful film"], {})
    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def run(task: str, model: Any, tokenizer: Any, inputs: Any, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    made = pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    return made(**inputs, **options) if isinstance(inputs, dict) else made(inputs, **options)


def assert_close(actual: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_close(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e)
    elif isinstance(expected, (str, int)):
        assert actual == expected
    else:
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)
