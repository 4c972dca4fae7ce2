"""What load_pretrained refuses: damaged files, tensors that do not fit, configurations of something else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
)
from tests.loading_helpers import SIZES, assert_same, fails, make, write_bin

BODY_KEY = "encoder.layers.1.output.conv1d.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_pretrained(make(), tmp_path / "base")
    return tmp_path / "base"


def rewrite(directory: Path, change: Any) -> Path:
    path = directory / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})
    return path


def test_a_missing_tensor_of_the_encoder_is_an_error_not_a_random_one(base: Path) -> None:
    path = rewrite(base, lambda state: state.pop(BODY_KEY))
    fails(CheckpointError, base, str(path), "lacks", BODY_KEY)
    fails(CheckpointError, base, BODY_KEY, cls=SqueezeBertForMaskedLM)


def test_an_unknown_tensor_of_the_encoder_is_another_architecture(base: Path) -> None:
    name = "embeddings.embedding_projection.weight"
    rewrite(base, lambda state: state.update({name: torch.ones(2)}))
    fails(CheckpointError, base, "another architecture", name, "model.safetensors")


def test_a_shape_mismatch_names_key_file_and_both_shapes(base: Path) -> None:
    path = rewrite(base, lambda state: state.update({BODY_KEY: torch.ones(16, 32, 1)}))
    fails(CheckpointError, base, BODY_KEY, str(path), "[16, 32, 1]", "[16, 8, 1]")
    fails(CheckpointError, base, "[16, 32, 1]", ignore_mismatched_sizes=True)


def test_many_mismatches_are_counted_not_all_listed(base: Path) -> None:
    fails(
        CheckpointError,
        base,
        "and ",
        " more",
        "[16, 4, 1]",
        "[16, 16, 1]",
        intermediate_groups=1,
        output_groups=1,
        q_groups=1,
        k_groups=1,
    )


def test_a_head_of_another_size_is_an_error_or_initialised_as_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cls = SqueezeBertForSequenceClassification
    save_pretrained(make(cls, num_labels=3), tmp_path)
    fails(
        CheckpointError,
        tmp_path,
        "classifier.bias",
        "[3]",
        "[5]",
        "ignore_mismatched_sizes",
        cls=cls,
        num_labels=5,
    )
    loaded = load_pretrained(cls, tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert torch.equal(loaded.classifier.bias, torch.zeros(5))
    assert "classifier.weight, classifier.bias" in caplog.records[0].getMessage()


def test_an_integer_tensor_in_place_of_weights_is_refused(base: Path) -> None:
    rewrite(base, lambda state: state.update({BODY_KEY: torch.ones(16, 8, 1, dtype=torch.int8)}))
    fails(CheckpointError, base, BODY_KEY, "int8", "floating point")


def test_two_names_for_one_parameter_are_refused(base: Path) -> None:
    rewrite(base, lambda state: state.update({f"transformer.{BODY_KEY}": state[BODY_KEY] + 1}))
    fails(CheckpointError, base, BODY_KEY, f"transformer.{BODY_KEY}", "both")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_refused(name: str, keep: int, tmp_path: Path) -> None:
    model = make()
    if name == "model.safetensors":
        save_pretrained(model, tmp_path / "x")
    else:
        write_bin(tmp_path / "x", model.state_dict(), model.config)
    path = tmp_path / "x" / name
    path.write_bytes(path.read_bytes()[:keep])
    fails(CheckpointError, tmp_path / "x", str(path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    make().config.save(tmp_path / "config.json")
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 50)
    fails(CheckpointError, tmp_path, name)


@pytest.mark.parametrize("content", [[1, 2], {"weights": {"nested": torch.ones(1)}}, {3: torch.ones(1)}])
def test_a_bin_file_that_is_no_mapping_of_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    write_bin(tmp_path / "x", content, SqueezeBertConfig(**SIZES))
    fails(CheckpointError, tmp_path / "x", "pytorch_model.bin", "tensor")


class TouchesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "torch_legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_none_of_its_code_runs(writer: str, tmp_path: Path) -> None:
    proof = tmp_path / "code_ran"
    state = {**make().state_dict(), "evil": TouchesAFile(proof)}
    directory = write_bin(
        tmp_path / "x", state, SqueezeBertConfig(**SIZES), _use_new_zipfile_serialization=writer == "torch"
    )
    if writer == "pickle":
        (directory / "pytorch_model.bin").write_bytes(pickle.dumps(state, protocol=2))
    fails(CheckpointError, directory, "pytorch_model.bin", "refused")
    assert not proof.exists()
    if writer != "pickle":
        torch.load(directory / "pytorch_model.bin", weights_only=False)
        assert proof.exists(), "the file was harmless, so its refusal proves nothing"


def test_a_directory_without_weights_or_config_says_so(tmp_path: Path) -> None:
    fails(CheckpointError, tmp_path, "has no file config.json")
    make().config.save(tmp_path / "config.json")
    fails(CheckpointError, tmp_path, "has no weights", "model.safetensors", "pytorch_model.bin.index.json")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["not valid JSON"]),
        ('{"hidden_size": 16', ["not valid JSON", "line 1"]),
        ('{"hidden_size": 16, "hidden_size": 32}', ["'hidden_size' occurs twice"]),
        ("[]", ["holds a JSON list", "an object"]),
        ("\xff\xfe", ["not valid JSON"]),
        ("[" * 200_000, ["not valid JSON"]),
    ],
)
def test_a_damaged_config_is_refused(text: str, parts: list[str], base: Path) -> None:
    (base / "config.json").write_bytes(text.encode("latin-1"))
    fails(CheckpointError, base, str(base / "config.json"), *parts)


def test_a_config_of_another_model_type_points_to_the_remedy(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": "bert"}')
    fails(ConfigError, base, "config.json", "'bert'", "'squeezebert'", "squeezebert-fast convert")
    (base / "config.json").write_text('{"model_type": "gpt2"}')
    fails(ConfigError, base, "config.json", "'gpt2'")


def test_invalid_values_and_unknown_overrides_are_named(base: Path) -> None:
    fails(ConfigError, base, "config.json", "q_groups", "3", q_groups=3)
    fails(ConfigError, base, "num_lables", num_lables=3)
    fails(ArgumentError, base, "int8", "float32", dtype="int8")
    fails(ArgumentError, base, "'flaot32'", dtype="flaot32")
    fails(ArgumentError, base, "'gpu'", device="gpu")
    fails(ArgumentError, base, "'xpu:77'", device="xpu:77")
    fails(ArgumentError, base, "'meta'", device="meta")


# Shards


def shard(directory: Path) -> dict[str, Any]:
    save_pretrained(make(), directory, max_shard_size=4000)
    index: dict[str, Any] = json.loads((directory / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    return index


def test_shards_that_disagree_with_their_index_are_refused(tmp_path: Path) -> None:
    index = shard(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    weight_map: dict[str, str] = index["weight_map"]
    shards = list(weight_map.values())
    first = next(name for name in shards if shards.count(name) > 1)
    second = next(name for name in shards if name != first)
    moved = next(key for key, name in weight_map.items() if name == first)

    def with_map(value: Any) -> None:
        path.write_text(json.dumps({"weight_map": value}))

    with_map({**weight_map, moved: second})
    fails(CheckpointError, tmp_path, first, moved, f"lists it in {second}")
    with_map({**weight_map, "pooler.more": first})
    fails(CheckpointError, tmp_path, str(path), "pooler.more", "doesn't hold it")
    with_map({key: name for key, name in weight_map.items() if key != moved})
    fails(CheckpointError, tmp_path, first, moved, "doesn't list it")
    for bad in ("../model.safetensors", "", "/etc/passwd", "a/b", "..", "a\\b"):
        with_map({**weight_map, moved: bad})
        fails(CheckpointError, tmp_path, str(path), repr(bad), "not a plain file name")
    for nothing in (None, [], {"a": 1}):
        with_map(nothing)
        fails(CheckpointError, tmp_path, str(path), "weight_map")
    with_map(weight_map)
    load_pretrained(SqueezeBertModel, tmp_path)
    (tmp_path / second).unlink()
    fails(CheckpointError, tmp_path, str(path), second, "no such file")


def test_sharded_bin_files_load(tmp_path: Path) -> None:
    model = make()
    model.config.save(tmp_path / "config.json")
    weight_map = {}
    for number in (1, 2):
        name = f"pytorch_model-{number:05}-of-00002.bin"
        part = dict(list(model.state_dict().items())[number - 1 :: 2])
        torch.save(part, tmp_path / name)
        weight_map |= dict.fromkeys(part, name)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load_pretrained(SqueezeBertModel, tmp_path).state_dict(), model.state_dict())
