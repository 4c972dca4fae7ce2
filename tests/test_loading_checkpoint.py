"""What load_pretrained reads, converts and initialises."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
)
from tests.fake_hub import FakeHub, point_huggingface_hub_at
from tests.loading_helpers import SIZES, assert_same, make, write_bin


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_pretrained(make(), tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("max_shard_size", ["5GB", 4000, "2KiB"])
def test_a_saved_model_loads_again_bit_for_bit(max_shard_size: int | str, tmp_path: Path) -> None:
    model = make(SqueezeBertForMaskedLM)
    model.train()
    save_pretrained(model, tmp_path / "a" / "b", max_shard_size=max_shard_size)
    loaded = SqueezeBertForMaskedLM.from_pretrained(tmp_path / "a" / "b")
    assert_same(loaded.state_dict(), model.state_dict())
    assert not loaded.training
    assert loaded.cls.predictions.decoder.weight is loaded.get_input_embeddings().weight
    assert loaded.config.architectures == ["SqueezeBertForMaskedLM"]
    assert model.config.architectures is None


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_legacy_float16_bin_file_loads_as_float32_unless_told_otherwise(
    zip_format: bool, tmp_path: Path
) -> None:
    model = make().half()
    config = SqueezeBertConfig(**SIZES)
    options = {"_use_new_zipfile_serialization": zip_format}
    directory = write_bin(tmp_path / "old", model.state_dict(), config, **options)
    assert {p.dtype for p in load_pretrained(SqueezeBertModel, directory).parameters()} == {torch.float32}
    for dtype in ("auto", "float16", torch.float16):
        loaded = load_pretrained(SqueezeBertModel, directory, dtype=dtype)
        assert {p.dtype for p in loaded.parameters()} == {torch.float16}
        assert_same(loaded.state_dict(), model.state_dict())
    assert load_pretrained(SqueezeBertModel, directory, dtype="bfloat16").dtype == torch.bfloat16


def test_auto_takes_the_widest_dtype_of_a_mixed_file(tmp_path: Path) -> None:
    state = {k: v.half() if "LayerNorm" not in k else v for k, v in make().state_dict().items()}
    directory = write_bin(tmp_path / "mixed", state, SqueezeBertConfig(**SIZES))
    assert load_pretrained(SqueezeBertModel, directory, dtype="auto").dtype == torch.float32


def test_names_of_old_checkpoints_are_understood(tmp_path: Path) -> None:
    model = make(SqueezeBertForMaskedLM)
    old = {
        "transformer.embeddings.position_ids": torch.arange(19)[None],
        "cls.seq_relationship.bias": torch.ones(2),
    }
    for name, tensor in model.state_dict().items():
        if "ayernorm" in name.lower():
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[name] = tensor
    directory = write_bin(tmp_path / "old", old, model.config)
    assert_same(load_pretrained(SqueezeBertForMaskedLM, directory).state_dict(), model.state_dict())


def test_the_prefix_may_be_missing_or_extra(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make(SqueezeBertForSequenceClassification)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    extra = {f"transformer.{name}": tensor for name, tensor in bare.items()}
    for name, state in {"missing": bare, "extra": extra}.items():
        directory = write_bin(tmp_path / name, state, model.config)
        loaded = load_pretrained(SqueezeBertForSequenceClassification, directory)
        assert_same(loaded.state_dict(), model.state_dict())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_base_checkpoint_in_a_head_initialises_the_head_with_one_warning(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = SqueezeBertForSequenceClassification.from_pretrained(base, num_labels=3)
    assert_same(model.transformer.state_dict(), make().state_dict())
    assert model.classifier.weight.shape == (3, 16)
    assert model.classifier.weight.std() < 0.05
    assert model.classifier.weight.abs().min() > 0
    assert torch.equal(model.classifier.bias, torch.zeros(3))
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "classifier.weight, classifier.bias" in warning.getMessage()


def test_a_head_checkpoint_in_the_base_drops_the_head_with_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(SqueezeBertForQuestionAnswering)
    save_pretrained(model, tmp_path)
    with caplog.at_level(logging.INFO):
        loaded = load_pretrained(SqueezeBertModel, tmp_path)
    assert_same(loaded.state_dict(), model.transformer.state_dict())
    (line,) = caplog.records
    assert line.levelno == logging.INFO
    assert "qa_outputs.bias, qa_outputs.weight" in line.getMessage()


def test_a_missing_pooler_is_initialised_like_a_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {k: v for k, v in make().state_dict().items() if not k.startswith("pooler")}
    load_pretrained(SqueezeBertModel, write_bin(tmp_path / "x", state, SqueezeBertConfig(**SIZES)))
    (warning,) = caplog.records
    assert "pooler.dense.weight, pooler.dense.bias" in warning.getMessage()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kept", ["decoder", "source"])
def test_either_name_of_a_tied_tensor_will_do(tie: bool, kept: str, tmp_path: Path) -> None:
    state = dict(make(SqueezeBertForMaskedLM).state_dict())
    whole = dict(state)
    for name, source in SqueezeBertForMaskedLM._tied_weights_keys.items():
        del state[source if kept == "decoder" else name]
    config = SqueezeBertConfig(**SIZES, tie_word_embeddings=tie)
    loaded = load_pretrained(SqueezeBertForMaskedLM, write_bin(tmp_path / "x", state, config))
    assert_same(loaded.state_dict(), whole)
    shared = loaded.cls.predictions.decoder.weight is loaded.get_input_embeddings().weight
    assert shared == tie


def test_tied_names_with_different_tensors_are_not_tied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    untied = make(SqueezeBertForMaskedLM, tie_word_embeddings=False)
    config = SqueezeBertConfig(**SIZES, tie_word_embeddings=True)
    loaded = load_pretrained(SqueezeBertForMaskedLM, write_bin(tmp_path / "x", untied.state_dict(), config))
    assert_same(loaded.state_dict(), untied.state_dict())
    assert loaded.config.tie_word_embeddings is False
    (warning,) = caplog.records
    assert "not tied" in warning.getMessage()


def test_fewer_layers_may_be_asked_for(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_pretrained(SqueezeBertModel, base, num_hidden_layers=1)
    expected = {k: v for k, v in make().state_dict().items() if "layers.1." not in k}
    assert_same(loaded.state_dict(), expected)
    (warning,) = caplog.records
    assert "num_hidden_layers is 1" in warning.getMessage()


def test_label_names_override_those_of_the_file(tmp_path: Path) -> None:
    save_pretrained(make(SqueezeBertForSequenceClassification, num_labels=3), tmp_path)
    names = {0: "no", 1: "maybe", 2: "yes"}
    loaded = load_pretrained(SqueezeBertForSequenceClassification, tmp_path, id2label=names)
    assert loaded.config.id2label == names
    assert loaded.config.num_labels == 3


def test_a_loaded_model_does_not_depend_on_the_file_any_more(base: Path) -> None:
    loaded = load_pretrained(SqueezeBertModel, base)
    weights = base / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.write(bytes(size))
    assert_same(loaded.state_dict(), make().state_dict())
    with torch.no_grad():
        loaded.pooler.dense.weight.zero_()


def test_a_model_may_be_saved_where_it_was_loaded_from(base: Path) -> None:
    loaded = load_pretrained(SqueezeBertModel, base)
    with torch.no_grad():
        loaded.pooler.dense.bias.fill_(2.0)
    save_pretrained(loaded, base)
    assert_same(load_pretrained(SqueezeBertModel, base).state_dict(), loaded.state_dict())


def test_loading_draws_no_random_numbers_unless_something_is_missing(base: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_pretrained(SqueezeBertModel, base)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_on_the_hub_is_read_at_one_commit_and_then_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    directory = write_bin(tmp_path / "x", model.state_dict(), model.config)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    options = {"cache_dir": tmp_path / "cache"}
    with FakeHub() as hub:
        hub.use(monkeypatch)
        commit = hub.push("team/model", files)
        first = load_pretrained(SqueezeBertModel, "team/model", **options)
        weights_asked = [request for request in hub.requests if "config.json" not in request]
        assert weights_asked
        assert [r for r in weights_asked if commit not in r] == []
        asked = len(hub.requests)
        load_pretrained(SqueezeBertModel, "team/model", local_files_only=True, **options)
        assert len(hub.requests) == asked
    point_huggingface_hub_at("http://127.0.0.1:1", monkeypatch)
    again = load_pretrained(SqueezeBertModel, "team/model", **options)
    assert_same(first.state_dict(), model.state_dict())
    assert_same(again.state_dict(), model.state_dict())
