"""`save_quantized` and `from_pretrained` of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import squeezebert_fast
from squeezebert_fast.errors import ArgumentError, CheckpointError, UnsupportedError
from squeezebert_fast.loading.int8_file import INT8_NAME, METADATA
from tests.model_pairs import CLASSES, inputs_for, pair, tiny_config

CONFIG = tiny_config(hidden_size=96, intermediate_size=192, vocab_size=83)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    model, _ = pair("SqueezeBertForSequenceClassification", CONFIG)
    squeezebert_fast.save_quantized(model, tmp_path)
    return model, tmp_path


@pytest.mark.parametrize("name", CLASSES)
def test_a_loaded_model_has_the_bits_of_one_that_was_patched(name: str, tmp_path: Path) -> None:
    model, _ = pair(name, CONFIG)
    squeezebert_fast.save_quantized(model, tmp_path)
    loaded = getattr(squeezebert_fast, name).from_pretrained(tmp_path)
    inputs = inputs_for(name, CONFIG)
    with torch.inference_mode():
        expected = squeezebert_fast.patch(model, precision="int8")(**inputs).to_tuple()
        actual = loaded(**inputs).to_tuple()
    assert not loaded.training
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def test_the_file_is_what_its_documentation_says(saved: tuple[torch.nn.Module, Path]) -> None:
    model, folder = saved
    with safe_open(folder / INT8_NAME, framework="pt") as file:
        assert file.metadata() == METADATA
    state = load_file(folder / INT8_NAME)
    for name, parameter in model.named_parameters():
        if name + "_scale" in state:
            assert state[name].dtype is torch.int8
            restored = state[name].float() * state[name + "_scale"].reshape(-1, *[1] * (parameter.dim() - 1))
            assert (restored - parameter).abs().max() <= state[name + "_scale"].max() * 0.5001
        else:
            assert torch.equal(state[name], parameter)
    quantized = {name for name in state if state[name].dtype is torch.int8}
    assert "transformer.encoder.layers.1.output.conv1d.weight" in quantized
    assert "transformer.embeddings.word_embeddings.weight" in quantized
    assert "classifier.weight" not in quantized  # two rows


def test_the_float_checkpoint_wins_where_both_are(saved: tuple[torch.nn.Module, Path]) -> None:
    model, folder = saved
    model.save_pretrained(folder)
    loaded = squeezebert_fast.SqueezeBertForSequenceClassification.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("size", ["5GB", "40KB"])
def test_nothing_is_saved_where_a_float_checkpoint_would_win(size: str, tmp_path: Path) -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    model.save_pretrained(tmp_path, max_shard_size=size)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"holds a float model, model\.safetensors.*another directory"):
        squeezebert_fast.save_quantized(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_body_is_loaded_without_its_head(saved: tuple[torch.nn.Module, Path]) -> None:
    model, folder = saved
    loaded = squeezebert_fast.SqueezeBertModel.from_pretrained(folder)
    inputs = inputs_for("SqueezeBertModel", CONFIG)
    with torch.inference_mode():
        squeezebert_fast.patch(model, precision="int8")
        assert torch.equal(loaded(**inputs)[0], model.transformer(**inputs)[0])


def test_a_loaded_model_says_that_it_has_no_original_weights(saved: tuple[torch.nn.Module, Path]) -> None:
    loaded = squeezebert_fast.SqueezeBertForSequenceClassification.from_pretrained(saved[1])
    with pytest.raises(CheckpointError, match="no values"):
        squeezebert_fast.save_quantized(loaded, saved[1] / "again")
    with pytest.raises(CheckpointError, match="meta device"):
        loaded.save_pretrained(saved[1] / "again")
    with pytest.raises(UnsupportedError, match="gave up"):
        squeezebert_fast.unpatch(loaded)
    assert not (saved[1] / "again").exists()


def _change(folder: Path, **tensors: torch.Tensor | None) -> None:
    state = {**load_file(folder / INT8_NAME), **tensors}
    save_file({k: v for k, v in state.items() if v is not None}, folder / INT8_NAME, metadata=METADATA)


WEIGHT = "transformer.encoder.layers.0.attention.query.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({WEIGHT: None}, WEIGHT),
        ({WEIGHT + "_scale": None}, "_scale is missing"),
        ({WEIGHT + "_scale": torch.ones(3)}, "_scale is missing or not float32"),
        ({WEIGHT: torch.zeros(96, 24, 1)}, "torch.float32"),
        ({WEIGHT: torch.zeros(96, 23, 1, dtype=torch.int8)}, r"\[96, 23, 1\]"),
        ({"classifier.bias": None}, "classifier.bias"),
    ],
)
def test_a_file_of_another_model_is_refused(
    saved: tuple[torch.nn.Module, Path], tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    _change(saved[1], **tensors)
    with pytest.raises(CheckpointError, match=message):
        squeezebert_fast.SqueezeBertForSequenceClassification.from_pretrained(saved[1])


@pytest.mark.parametrize(
    "scale",
    [
        torch.ones(96, 1, dtype=torch.int32),
        torch.ones(96, 0),
        torch.ones(96, 7),
        torch.ones(3, 1),
        torch.ones(96),
    ],
)
def test_scales_that_do_not_fit_are_refused_where_a_model_is_dequantized(
    saved: tuple[torch.nn.Module, Path], scale: torch.Tensor
) -> None:
    _change(saved[1], **{WEIGHT + "_scale": scale})
    with pytest.raises(CheckpointError, match="_scale is missing or of another shape or dtype"):
        squeezebert_fast.SqueezeBertModel.from_pretrained(saved[1], dequantize=True)


def test_weights_without_axes_are_refused_where_a_model_is_dequantized(
    saved: tuple[torch.nn.Module, Path],
) -> None:
    _change(saved[1], **{WEIGHT: torch.tensor(1, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match="_scale is missing or of another shape or dtype"):
        squeezebert_fast.SqueezeBertModel.from_pretrained(saved[1], dequantize=True)


def test_a_damaged_or_foreign_file_is_refused(saved: tuple[torch.nn.Module, Path]) -> None:
    path = saved[1] / INT8_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        squeezebert_fast.SqueezeBertModel.from_pretrained(saved[1])
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="metadata"):
        squeezebert_fast.SqueezeBertModel.from_pretrained(saved[1])


def test_options_that_need_float_weights_are_refused(saved: tuple[torch.nn.Module, Path]) -> None:
    with pytest.raises(ArgumentError, match="dtype"):
        squeezebert_fast.SqueezeBertModel.from_pretrained(saved[1], dtype=torch.bfloat16)
    with pytest.raises(ArgumentError, match="device"):
        squeezebert_fast.SqueezeBertModel.from_pretrained(saved[1], device="meta")


def test_what_has_no_int8_form_is_not_saved(tmp_path: Path) -> None:
    model, theirs = pair("SqueezeBertModel", CONFIG)
    with pytest.raises(ArgumentError, match="expected a model of this package"):
        squeezebert_fast.save_quantized(theirs, tmp_path / "theirs")
    with pytest.raises(ArgumentError, match="float64"):
        squeezebert_fast.save_quantized(pair("SqueezeBertModel", CONFIG)[0].double(), tmp_path / "double")
    model.encoder.layers[0].output.conv1d.weight.data[0, 0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"output\.conv1d\.weight holds NaN"):
        squeezebert_fast.save_quantized(model, tmp_path / "nan")
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_kept(saved: tuple[torch.nn.Module, Path]) -> None:
    written = json.loads((saved[1] / "config.json").read_text())
    assert written["hidden_size"] == 96
    assert written["architectures"] == ["SqueezeBertForSequenceClassification"]


def test_the_base_model_takes_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    model = squeezebert_fast.SqueezeBertModel(squeezebert_fast.SqueezeBertConfig())
    squeezebert_fast.save_quantized(model, tmp_path)
    assert (tmp_path / INT8_NAME).stat().st_size <= 0.27 * sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("name", CLASSES)
def test_a_dequantized_model_is_an_ordinary_one_with_the_same_weights(name: str, tmp_path: Path) -> None:
    model, _ = pair(name, CONFIG)
    squeezebert_fast.save_quantized(model, tmp_path)
    restored = getattr(squeezebert_fast, name).from_pretrained(tmp_path, dequantize=True)
    state = load_file(tmp_path / INT8_NAME)
    for key, parameter in restored.named_parameters():
        stored = next(k for k in (key, f"transformer.{key}") if k in state or f"{k}_scale" in state)
        if f"{stored}_scale" in state:
            scale = state[f"{stored}_scale"]
            parts = state[stored].reshape(*scale.shape, -1).float() * scale[..., None]
            assert torch.equal(parameter, parts.reshape(parameter.shape))
        else:
            assert torch.equal(parameter, state[stored])
    inputs = inputs_for(name, CONFIG)
    with torch.inference_mode():
        expected = getattr(squeezebert_fast, name).from_pretrained(tmp_path)(**inputs).to_tuple()
        again = squeezebert_fast.patch(restored, precision="int8")(**inputs).to_tuple()
    for a, e in zip(again, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)  # a scale may round by one bit


def test_dequantizing_needs_every_scale(saved: tuple[torch.nn.Module, Path]) -> None:
    _, folder = saved
    state = load_file(folder / INT8_NAME)
    key = "transformer.encoder.layers.0.output.conv1d.weight"
    del state[f"{key}_scale"]
    save_file(state, folder / INT8_NAME, metadata=METADATA)
    with pytest.raises(CheckpointError, match=r"conv1d\.weight_scale is missing or of another shape"):
        squeezebert_fast.SqueezeBertForSequenceClassification.from_pretrained(folder, dequantize=True)
