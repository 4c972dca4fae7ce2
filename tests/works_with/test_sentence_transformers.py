"""sentence-transformers over patched models: embeddings, pairs, pools of processes, files and training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import squeezebert_fast
from tests.cli_helpers import VOCAB
from tests.engine_helpers import PRECISIONS, native_runs, needs_native
from tests.minilm import minilm_directory

pytestmark = needs_native

SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "BERT": (transformers.BertModel, transformers.BertConfig(**SIZES)),
    "RoBERTa": (transformers.RobertaModel, transformers.RobertaConfig(**SIZES, pad_token_id=0)),
    "DistilBERT": (
        transformers.DistilBertModel,
        transformers.DistilBertConfig(dim=24, hidden_dim=48, n_layers=2, n_heads=4),
    ),
}
TEXTS = [
    "a warm and funny film",
    "The plot is thin, the acting is thinner, and nobody laughed at all.",
    "it works",
    "",
    "one of those rare pictures that you would gladly see again, and again, and then once more",
]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999, "int8": 0.99}


def save(folder: Path, model_class: Any, config: Any, **fields: Any) -> Path:
    """A folder with random weights, far enough apart for texts to differ, and the real vocabulary."""
    torch.manual_seed(3)
    config = copy.deepcopy(config)
    config.update({"vocab_size": 30522, "max_position_embeddings": 64, "initializer_range": 0.3, **fields})
    model_class(config).save_pretrained(folder)
    words = VOCAB.read_text(encoding="utf-8").splitlines()
    # DistilBERT's gives no types of tokens
    cls = transformers.DistilBertTokenizer if "dim" in config.to_dict() else transformers.BertTokenizer
    cls(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name), *FAMILIES[name]) for name in FAMILIES}


def embedder(folder: Path, pooling: str = "mean", **options: Any) -> SentenceTransformer:
    transformer = Transformer(str(folder))
    modules = [transformer, Pooling(24, pooling_mode=pooling), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", **options)


@pytest.fixture
def bert(folders: dict[str, Path]) -> SentenceTransformer:
    return embedder(folders["BERT"])


def patched(model: Any, **options: Any) -> Any:
    """A patched copy."""
    return squeezebert_fast.patch(copy.deepcopy(model), **options)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_as_before_patch(
    family: str, pooling: str, unpad: bool, folders: dict[str, Path]
) -> None:
    model = embedder(folders[family], pooling)
    expected = model.encode(TEXTS)
    assert model is squeezebert_fast.patch(model, unpad=unpad, strict=True)
    with native_runs() as runs:
        actual = model.encode(TEXTS)
    assert runs == ["float32"]
    np.testing.assert_allclose(actual, expected, **CLOSE)


WAYS: dict[str, dict[str, Any]] = {
    "normalised": {"normalize_embeddings": True},
    "a tensor": {"convert_to_tensor": True},
    "tensors": {"convert_to_numpy": False},
    "tokens": {"output_value": "token_embeddings"},
    "everything": {"output_value": None},
    "a prompt": {"prompt": "classify: "},
    "a prompt by name": {"prompt_name": "query"},
    "fewer dimensions": {"truncate_dim": 7},
    "small batches": {"batch_size": 2},
    "bits": {"precision": "binary"},
}


@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0]], ids=["texts", "one text"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_encode_gives_what_it_gave(way: str, inputs: Any, folders: dict[str, Path]) -> None:
    model = embedder(folders["BERT"], prompts={"query": "find: "})
    expected = model.encode(inputs, **WAYS[way])
    assert_close(squeezebert_fast.patch(model).encode(inputs, **WAYS[way]), expected)


def assert_close(actual: Any, expected: Any) -> None:
    """The same structure, types and nearly the same numbers, whole ones exactly."""
    assert type(actual) is type(expected)
    if isinstance(expected, (dict, list)):
        keys = expected.keys() if isinstance(expected, dict) else range(len(expected))
        assert len(actual) == len(expected)
        for key in keys:
            assert_close(actual[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, **CLOSE)
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, **CLOSE)
    else:
        assert actual == expected


def test_a_prompt_that_is_not_pooled_is_left_out_as_before(folders: dict[str, Path]) -> None:
    model = embedder(folders["BERT"], prompts={"query": "find this for me: "})
    with_prompt = model.encode(TEXTS, prompt_name="query")
    model.set_pooling_include_prompt(False)
    expected = model.encode(TEXTS, prompt_name="query")
    assert abs(expected - with_prompt).max() > 1e-3
    actual = squeezebert_fast.patch(model, unpad=True).encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(actual, expected, **CLOSE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_real_weights_keep_their_directions(precision: str) -> None:
    model = SentenceTransformer(str(minilm_directory()), device="cpu")
    expected = model.encode(TEXTS)
    squeezebert_fast.patch(model, precision=precision, unpad=True, strict=True)
    with native_runs() as runs:
        actual = model.encode(TEXTS)
    assert runs == [precision]
    assert cosines(actual, expected).min() >= LEAST_COSINE[precision]
    assert model.similarity(actual, actual).shape == (len(TEXTS), len(TEXTS))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_that_are_given_up_are_not_missed(precision: str, bert: SentenceTransformer) -> None:
    expected = patched(bert, precision=precision).encode(TEXTS)
    actual = squeezebert_fast.patch(bert, precision=precision, keep_original=False).encode(TEXTS)
    assert np.array_equal(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_pool_of_processes_embeds_as_one_does(precision: str, bert: SentenceTransformer) -> None:
    model = squeezebert_fast.patch(bert, precision=precision, unpad=True)
    expected = model.encode(TEXTS)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        actual = [model.encode(TEXTS, pool=pool, chunk_size=2) for _ in range(2)]
    finally:
        model.stop_multi_process_pool(pool)
    for each in actual:
        np.testing.assert_allclose(each, expected, **CLOSE)


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_what_would_have_been(
    family: str, precision: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = embedder(folders[family])
    expected = model.encode(TEXTS)  # after which the tokenizer's file says how it padded
    model.save_pretrained(str(tmp_path / "before"))
    squeezebert_fast.patch(model, precision=precision, unpad=True).encode(TEXTS)
    model.save_pretrained(str(tmp_path / "after"))
    before, after = (files_in(tmp_path / name) for name in ("before", "after"))
    cards = [files.pop(Path("README.md")).decode() for files in (before, after)]
    assert before == after
    # The model card shows similarities that the model computes.
    assert "squeezebert" not in cards[1].lower()
    assert precision != "float32" or cards[0] == cards[1]
    again = SentenceTransformer(str(tmp_path / "after"), device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), expected)


def test_a_copy_is_a_patched_model_of_its_own(bert: SentenceTransformer) -> None:
    model = squeezebert_fast.patch(bert)
    expected = model.encode(TEXTS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    with native_runs() as runs:
        np.testing.assert_array_equal(twin.encode(TEXTS), expected)
    assert runs == ["float32"]
    assert abs(model.encode(TEXTS) - expected).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_unpatched_nothing_is_left(family: str, folders: dict[str, Path]) -> None:
    model = embedder(folders[family])
    types = [type(module) for module in model.modules()]
    fields = [set(vars(module)) for module in model.modules()]
    expected = model.encode(TEXTS)
    squeezebert_fast.patch(model, precision="int8", unpad=True).encode(TEXTS)
    assert model is squeezebert_fast.unpatch(model)
    assert [type(module) for module in model.modules()] == types
    assert [set(vars(module)) for module in model.modules()] == fields
    np.testing.assert_array_equal(model.encode(TEXTS), expected)


HEADS = {
    "BERT": transformers.BertForSequenceClassification,
    "RoBERTa": transformers.RobertaForSequenceClassification,
    "DistilBERT": transformers.DistilBertForSequenceClassification,
}
PAIRS = [(query, text) for query in TEXTS[:2] for text in TEXTS[1:]]


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cross_encoder_judges_pairs_as_before_patch(family: str, labels: int, tmp_path: Path) -> None:
    _, config = FAMILIES[family]
    save(tmp_path, HEADS[family], config, num_labels=labels)
    model = CrossEncoder(str(tmp_path), device="cpu")
    expected = model.predict(PAIRS)
    assert np.ptp(expected, axis=0).min() > 1e-3
    assert model is squeezebert_fast.patch(model, unpad=True, strict=True)
    with native_runs() as runs:
        actual = model.predict(PAIRS)
    assert runs == ["float32"]
    np.testing.assert_allclose(actual, expected, **CLOSE)
    if labels == 1:
        ranked = [row["corpus_id"] for row in model.rank(TEXTS[0], TEXTS)]
        assert ranked == [row["corpus_id"] for row in squeezebert_fast.unpatch(model).rank(TEXTS[0], TEXTS)]


def trained(model: SentenceTransformer, folder: Path) -> list[float]:
    """The losses of three steps of the trainer."""
    data = datasets.Dataset.from_dict(
        {"a": TEXTS * 2, "b": [*TEXTS[1:], TEXTS[0]] * 2, "score": [number / 10 for number in range(10)]}
    )
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    loss = CosineSimilarityLoss(model)
    trainer = SentenceTransformerTrainer(model=model, args=settings, train_dataset=data, loss=loss)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_trainer_trains_a_patched_model_as_it_does_another(tmp_path: Path) -> None:
    save(tmp_path, *FAMILIES["BERT"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain, fast = embedder(tmp_path), squeezebert_fast.patch(embedder(tmp_path))
    start = plain.encode(TEXTS)
    losses = [trained(model, tmp_path / "runs") for model in (plain, fast)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    end = plain.encode(TEXTS)
    assert abs(end - start).max() > 1e-3
    with native_runs() as runs:
        np.testing.assert_allclose(fast.encode(TEXTS), end, rtol=1e-3, atol=1e-3)
    assert runs == ["float32"]


def backward(model: SentenceTransformer, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    embeddings = model(model.preprocess(list(texts)))["sentence_embedding"]
    (embeddings @ embeddings.T).tril(-1).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_go_through_pooling_and_normalising(bert: SentenceTransformer) -> None:
    expected = backward(copy.deepcopy(bert), TEXTS)
    actual = backward(squeezebert_fast.patch(bert), TEXTS)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-4)
