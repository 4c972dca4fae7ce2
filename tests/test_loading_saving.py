"""What save_pretrained leaves behind, also when it fails."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, CheckpointError, StorageError
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from squeezebert_fast.modeling import SqueezeBertForMaskedLM, SqueezeBertModel
from squeezebert_fast.patching.int8_checkpoint import save_quantized
from tests.full_disk import files_of_at_most
from tests.loading_helpers import SIZES, assert_same, make


def test_saving_again_leaves_no_file_of_the_older_checkpoint(tmp_path: Path) -> None:
    for seed, size in enumerate([4000, "5GB", 8000, 4000, "1MB"]):
        model = make(seed=seed)
        save_pretrained(model, tmp_path, max_shard_size=size)
        assert_same(load_pretrained(SqueezeBertModel, tmp_path).state_dict(), model.state_dict())
        index = tmp_path / "model.safetensors.index.json"
        expected = {"config.json", "model.safetensors"}
        if isinstance(size, int):
            shards = set(json.loads(index.read_text())["weight_map"].values())
            expected = {"config.json", index.name, *shards}
        assert {path.name for path in tmp_path.iterdir()} == expected


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    old = make(seed=1)
    save_pretrained(old, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with files_of_at_most(9_000):
        with pytest.raises(StorageError, match="can't be written"):
            save_pretrained(make(seed=2), tmp_path)
        with pytest.raises(StorageError, match="can't be written"):  # the first shards fit
            save_pretrained(make(seed=2, vocab_size=2000), tmp_path, max_shard_size=8000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(load_pretrained(SqueezeBertModel, tmp_path).state_dict(), old.state_dict())


def test_a_file_in_place_of_the_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file; expected a directory"):
        save_pretrained(make(), tmp_path / "model")
    with pytest.raises(CheckpointError, match="can't be written"):
        save_pretrained(make(), tmp_path / "model" / "below")
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 300, "~nobody-of-this-name/\0"])
def test_a_name_that_no_directory_has_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for save in (
        make().save_pretrained,
        make().config.save_pretrained,
        functools.partial(save_quantized, make()),
    ):
        with pytest.raises(CheckpointError):
            save(name)
    for load in (SqueezeBertModel.from_pretrained, SqueezeBertConfig.from_pretrained):
        with pytest.raises(CheckpointError):
            load(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, -1, "", "much", "5XB", "1.5GB", None])
def test_a_bad_shard_size_is_refused_before_anything_is_written(size: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="max_shard_size is"):
        save_pretrained(make(), tmp_path / "x", max_shard_size=size)
    assert not (tmp_path / "x").exists()


def test_a_model_without_weights_is_not_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = SqueezeBertModel(SqueezeBertConfig(**SIZES))
    with pytest.raises(CheckpointError, match="meta device"):
        save_pretrained(model, tmp_path / "x")


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    model = make(SqueezeBertForMaskedLM).half()
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("squeezebert", "float16")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert "cls.predictions.decoder.weight" not in file.keys()  # noqa: SIM118 (not a mapping)
        assert "transformer.embeddings.word_embeddings.weight" in file.keys()  # noqa: SIM118
    (tmp_path / "reference").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "reference").stat().st_mode
