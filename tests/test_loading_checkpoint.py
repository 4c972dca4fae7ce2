"""What load_pretrained accepts, converts, initialises and refuses, and what save_pretrained leaves behind."""

from __future__ import annotations

import json
import logging
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from squeezebert_fast.modeling.encoder import SqueezeBertModel
from squeezebert_fast.modeling.heads import (
    SqueezeBertForMaskedLM,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
)
from tests.fake_hub import FakeHub, point_huggingface_hub_at

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 19,
    "q_groups": 2,
}
BODY_KEY = "encoder.layers.1.output.conv1d.weight"


def make(cls: Any = SqueezeBertModel, seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    model = cls(SqueezeBertConfig(**{**SIZES, **fields})).eval()
    with torch.no_grad():  # biases and LayerNorms too, which start alike in every model
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor.to(actual[name].dtype)), name


def write_bin(directory: Path, state: dict[str, Any], config: SqueezeBertConfig, **options: Any) -> Path:
    directory.mkdir()
    torch.save(state, directory / "pytorch_model.bin", **options)
    config.save(directory / "config.json")
    return directory


def fails(
    error: type[Exception], directory: Any, *parts: str, cls: Any = SqueezeBertModel, **options: Any
) -> None:
    with pytest.raises(error) as caught:
        load_pretrained(cls, directory, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


# What is accepted


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


# What is refused


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


# Saving


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
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    try:
        with pytest.raises(CheckpointError, match="can't be written"):
            save_pretrained(make(seed=2), tmp_path)
        with pytest.raises(CheckpointError, match="can't be written"):  # the first shards fit
            save_pretrained(make(seed=2, vocab_size=2000), tmp_path, max_shard_size=8000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(load_pretrained(SqueezeBertModel, tmp_path).state_dict(), old.state_dict())


def test_a_file_in_place_of_the_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file; expected a directory"):
        save_pretrained(make(), tmp_path / "model")
    with pytest.raises(CheckpointError, match="can't be written"):
        save_pretrained(make(), tmp_path / "model" / "below")
    assert (tmp_path / "model").read_text() == "mine"


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
