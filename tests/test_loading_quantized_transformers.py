"""`save_quantized` and `load_quantized` of transformers' models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import squeezebert_fast
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError, UnsupportedError
from squeezebert_fast.loading import fit
from squeezebert_fast.loading.int8_file import INT8_NAME, METADATA
from tests.cli_helpers import save_model
from tests.transformers_folders import MODEL_TYPES, save_folder, transformers_class

HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
WORDS = 96
"""More than a product may have that stays float."""


def inputs(head: str) -> dict[str, Tensor]:
    ids = torch.randint(5, WORDS, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    return (
        {name: each[:, None].repeat(1, 2, 1) for name, each in given.items()} if "Choice" in head else given
    )


def float_model(folder: Path, model_type: str, head: str, **fields: Any) -> Any:
    save_folder(model_type, head, folder, vocab_size=WORDS, **fields)
    return transformers_class(model_type, head).from_pretrained(folder)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = float_model(tmp_path / "float", "bert", "ForSequenceClassification")
    squeezebert_fast.save_quantized(model, tmp_path / "int8")
    return tmp_path / "int8"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("head", HEADS)
def test_a_loaded_model_has_the_bits_of_one_that_was_patched(
    model_type: str, head: str, tmp_path: Path
) -> None:
    model = float_model(tmp_path / "float", model_type, head)
    squeezebert_fast.save_quantized(model, tmp_path / "int8")
    loaded = squeezebert_fast.load_quantized(tmp_path / "int8")
    assert type(loaded) is type(model)
    assert not loaded.training
    squeezebert_fast.patch(model, precision="int8", keep_original=False)
    with torch.inference_mode():
        expected, actual = (each(**inputs(head)).to_tuple() for each in (model, loaded))
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("head", ["ForMaskedLM", "Model"])
def test_a_vocabulary_of_few_words_has_the_same_bits_too(head: str, tmp_path: Path) -> None:
    save_folder("bert", head, tmp_path / "float", vocab_size=40)
    model = transformers_class("bert", head).from_pretrained(tmp_path / "float")
    squeezebert_fast.save_quantized(model, tmp_path / "int8")
    loaded = squeezebert_fast.load_quantized(tmp_path / "int8")
    squeezebert_fast.patch(model, precision="int8", keep_original=False)
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode():
        assert torch.equal(loaded(ids)[0], model(ids)[0])


def test_no_float_weight_is_made_on_the_way(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = []

    def watched(cls: Any, config: Any) -> Any:
        model = fit.skeleton(cls, config)
        real.extend(name for name, each in model.named_parameters() if not each.is_meta)
        return model

    monkeypatch.setattr(squeezebert_fast.patching.int8_checkpoint, "skeleton", watched)
    model = squeezebert_fast.load_quantized(saved)
    assert real == []
    quantized = {name for name, each in load_file(saved / INT8_NAME).items() if each.dtype is torch.int8}
    assert "bert.encoder.layer.1.output.dense.weight" in quantized
    assert "bert.embeddings.word_embeddings.weight" in quantized
    assert "classifier.weight" not in quantized
    assert all(model.get_parameter(name).is_meta for name in quantized)


def test_a_model_of_this_package_is_loaded_by_the_same_function(tmp_path: Path) -> None:
    cls = squeezebert_fast.SqueezeBertForMaskedLM
    model = cls.from_pretrained(save_model(cls, tmp_path / "float"))
    squeezebert_fast.save_quantized(model, tmp_path / "int8")
    loaded = squeezebert_fast.load_quantized(tmp_path / "int8")
    assert type(loaded) is cls
    squeezebert_fast.patch(model, precision="int8")
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_loaded_model_says_that_it_has_no_original_weights(saved: Path) -> None:
    loaded = squeezebert_fast.load_quantized(saved)
    with pytest.raises(CheckpointError, match="no values"):
        squeezebert_fast.save_quantized(loaded, saved / "again")
    with pytest.raises(UnsupportedError, match="gave up"):
        squeezebert_fast.unpatch(loaded)


WEIGHT = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({WEIGHT: None}, f"lacks {WEIGHT}"),
        ({WEIGHT + "_scale": None}, "_scale is missing"),
        ({WEIGHT + "_scale": torch.ones(3)}, "_scale is missing or not float32"),
        ({WEIGHT: torch.zeros(64, 64)}, "torch.float32"),
        ({WEIGHT: torch.zeros(64, 63, dtype=torch.int8)}, r"\[64, 63\]"),
        ({"classifier.bias": None}, "classifier.bias"),
    ],
)
def test_a_file_of_another_model_is_refused(
    saved: Path, tensors: dict[str, Tensor | None], message: str
) -> None:
    state = {**load_file(saved / INT8_NAME), **tensors}
    save_file({k: v for k, v in state.items() if v is not None}, saved / INT8_NAME, metadata=METADATA)
    with pytest.raises(CheckpointError, match=message):
        squeezebert_fast.load_quantized(saved)


def test_a_damaged_file_is_refused(saved: Path) -> None:
    path = saved / INT8_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        squeezebert_fast.load_quantized(saved)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"has no file {INT8_NAME}"):
        squeezebert_fast.load_quantized(saved)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"num_hidden_layers": 10**9}, CheckpointError, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 3}, CheckpointError, r"lacks bert\.encoder\.layer\.2"),
        ({"hidden_size": "many"}, CheckpointError, "transformers can't load"),
        ({"max_position_embeddings": 10**15}, CheckpointError, "transformers can't load"),
        ({"vocab_size": 97}, CheckpointError, r"word_embeddings\.weight of .* is torch.int8 \[96, 64\]"),
        ({"architectures": ["GPT2Model"]}, ConfigError, "'GPT2Model', which transformers lacks for 'bert'"),
        ({"architectures": None}, ConfigError, "names the class None"),
        ({"architectures": ["BertTokenizer"]}, ConfigError, "which transformers lacks for 'bert'"),
        ({"model_type": "gpt2"}, ConfigError, "model_type 'gpt2', expected one of squeezebert, bert"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    saved: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(error, match=message):
        squeezebert_fast.load_quantized(saved)


def test_what_has_no_int8_form_is_not_saved(tmp_path: Path) -> None:
    model = float_model(tmp_path / "float", "bert", "Model")
    with pytest.raises(ArgumentError, match="float64"):
        squeezebert_fast.save_quantized(model.double(), tmp_path / "to")
    with pytest.raises(CheckpointError, match=r"holds a float model, model\.safetensors"):
        squeezebert_fast.save_quantized(model.float(), tmp_path / "float")
    model.encoder.layer[0].output.dense = torch.nn.Identity()
    with pytest.raises(CheckpointError, match=r"no parameter encoder\.layer\.0\.output\.dense\.weight"):
        squeezebert_fast.save_quantized(model, tmp_path / "to")
    tiny = transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9))
    with pytest.raises(
        ArgumentError, match="GPT2Model, expected a model of this package, or of transformers"
    ):
        squeezebert_fast.save_quantized(tiny, tmp_path / "to")
    assert not (tmp_path / "to").exists()
