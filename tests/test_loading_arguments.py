"""`from_pretrained` and `save_pretrained` take transformers' arguments: honoured, without effect, or refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError
from squeezebert_fast.loading.checkpoint import load_pretrained
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
)
from squeezebert_fast.patching.int8_checkpoint import save_quantized
from squeezebert_fast.storage.arguments import IDLE, REFUSED
from tests.fake_hub import FakeHub
from tests.loading_helpers import assert_same, fails, make

CLASS = SqueezeBertForSequenceClassification


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make(CLASS, num_labels=3).save_pretrained(save_directory=tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def both(saved: Path) -> Path:
    """A directory whose pytorch_model.bin has other values than its model.safetensors."""
    torch.save(make(CLASS, seed=1, num_labels=3).state_dict(), saved / "pytorch_model.bin")
    return saved


def test_the_names_that_transformers_gives_the_arguments_are_taken(saved: Path) -> None:
    loaded = CLASS.from_pretrained(pretrained_model_name_or_path=str(saved), torch_dtype=torch.float16)
    assert loaded.dtype == torch.float16
    assert loaded.name_or_path == loaded.config.name_or_path == str(saved)
    assert load_pretrained(CLASS, saved, dtype="float16", torch_dtype="float16").dtype == torch.float16
    assert load_pretrained(CLASS, saved, dtype="float16", torch_dtype=torch.float16).dtype == torch.float16
    fails(ArgumentError, saved, "float16", "bfloat16", dtype="float16", torch_dtype="bfloat16")


def test_every_argument_of_transformers_loading_is_known_here() -> None:
    source = inspect.getsource(transformers.PreTrainedModel.from_pretrained)
    asked = {line.split('"')[1] for line in source.splitlines() if 'kwargs.pop("' in line}
    named = set(inspect.signature(transformers.PreTrainedModel.from_pretrained).parameters)
    ours = set(inspect.signature(load_pretrained).parameters) | IDLE | REFUSED.keys()
    elsewhere = {
        "pretrained_model_name_or_path",
        "model_args",
        "kwargs",
        "attn_implementation",
        "use_auth_token",
    }
    assert asked | named <= ours | elsewhere


@pytest.mark.parametrize("name", sorted(IDLE))
def test_an_argument_that_cannot_matter_does_nothing(name: str, saved: Path) -> None:
    assert_same(
        load_pretrained(CLASS, saved, **{name: True}).state_dict(), make(CLASS, num_labels=3).state_dict()
    )


@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_any_exact_attention_will_do_and_no_other(attention: str | None, saved: Path) -> None:
    load_pretrained(CLASS, saved, attn_implementation=attention)
    fails(ArgumentError, saved, "'flash_attention_2'", "eager, sdpa", attn_implementation="flash_attention_2")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_argument_that_would_change_the_result_is_refused_unless_it_asks_for_nothing(
    name: str, saved: Path
) -> None:
    for nothing in (None, False, {}):
        load_pretrained(CLASS, saved, **{name: nothing})
    fails(ArgumentError, saved, f"{name} is {{'a': 1}}", cls=CLASS, **{name: {"a": 1}})


def test_use_safetensors_chooses_the_file(both: Path) -> None:
    safe, pickled = (make(CLASS, seed=seed, num_labels=3).state_dict() for seed in (0, 1))
    assert_same(load_pretrained(CLASS, both).state_dict(), safe)
    assert_same(load_pretrained(CLASS, both, use_safetensors=True).state_dict(), safe)
    assert_same(load_pretrained(CLASS, both, use_safetensors=False).state_dict(), pickled)
    fails(ArgumentError, both, "use_safetensors is 'yes'", use_safetensors="yes")
    (both / "model.safetensors").unlink()
    fails(
        CheckpointError,
        both,
        "none of model.safetensors or model.safetensors.index.json",
        use_safetensors=True,
    )
    (both / "pytorch_model.bin").unlink()
    save_quantized(make(CLASS, num_labels=3), both)
    fails(CheckpointError, both, "none of pytorch_model.bin", use_safetensors=False)


@pytest.mark.parametrize("kind", ["ours", "theirs", "directory", "file", "their directory"])
def test_a_configuration_may_be_given(kind: str, saved: Path, tmp_path: Path) -> None:
    fields = {**make(CLASS).config.to_dict(), "id2label": {0: "x", 1: "y", 2: "z"}, "label2id": None}
    ours = SqueezeBertConfig.from_dict(fields)
    theirs = transformers.SqueezeBertConfig(**{**fields, "label2id": {"x": 0, "y": 1, "z": 2}})
    (theirs if kind == "their directory" else ours).save_pretrained(tmp_path / "other")
    config: Any = {"ours": ours, "theirs": theirs, "file": tmp_path / "other" / "config.json"}.get(
        kind, tmp_path / "other"
    )
    before = str(config.to_dict()) if kind in ("ours", "theirs") else ""
    loaded = load_pretrained(CLASS, saved, config=config, hidden_dropout_prob=0.25)
    assert loaded.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert (loaded.config.hidden_dropout_prob, loaded.dropout.p) == (0.25, 0.25)
    assert_same(loaded.state_dict(), make(CLASS, num_labels=3).state_dict())
    if before:
        assert str(config.to_dict()) == before
    fails(ConfigError, saved, "hiden_size", "hidden_size?", config=config, hiden_size=3)


def test_a_configuration_that_is_given_is_compared_with_the_weights_too(saved: Path) -> None:
    config = make(CLASS, num_labels=3).config
    config.num_hidden_layers = 10**9
    fails(
        CheckpointError,
        saved,
        "num_hidden_layers is 1000000000 in the config given",
        "2 layers",
        config=config,
    )
    fails(ArgumentError, saved, "config is a builtins.int", config=3)


def test_weights_may_be_given_with_and_without_a_directory(saved: Path) -> None:
    other = make(CLASS, seed=1, num_labels=3)
    state = other.state_dict()
    loaded = CLASS.from_pretrained(saved, state_dict=state)
    assert_same(loaded.state_dict(), state)
    assert loaded.classifier.weight.data_ptr() != other.classifier.weight.data_ptr()
    assert_same(CLASS.from_pretrained(None, config=other.config, state_dict=state).state_dict(), state)
    del state["transformer.pooler.dense.bias"], state["transformer.encoder.layers.1.output.conv1d.bias"]
    with pytest.raises(CheckpointError, match=r"state_dict lacks .*layers.1.output.conv1d.bias"):
        CLASS.from_pretrained(None, config=other.config, state_dict=state)
    for state in ([1], {"pooler.dense.bias": [1.0]}):
        fails(ArgumentError, saved, "state_dict is not a mapping", state_dict=state)
    with pytest.raises(ArgumentError, match="name is None"):
        CLASS.from_pretrained(None, config=other.config)


def test_what_did_not_match_is_reported_as_transformers_reports_it(saved: Path) -> None:
    loading: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, "num_labels": 5}
    for name in ("SqueezeBertForSequenceClassification", "SqueezeBertForMaskedLM", "SqueezeBertModel"):
        ours, info = load_pretrained(
            {c.__name__: c for c in (CLASS, SqueezeBertForMaskedLM, SqueezeBertModel)}[name], saved, **loading
        )
        theirs, expected = getattr(transformers, name).from_pretrained(saved, **loading)
        assert type(ours).__name__ == type(theirs).__name__ == name
        assert info.keys() == expected.keys()
        for key in ("unexpected_keys", "error_msgs"):
            assert sorted(info[key]) == sorted(expected[key]), key
        their_missing = {
            key for key in expected["missing_keys"] if "decoder" not in key
        }  # tied to what is there
        assert {key for key in info["missing_keys"] if "decoder" not in key} == their_missing
        if transformers.__version__ >= "5":  # before, it reported the keys alone
            assert sorted(info["mismatched_keys"]) == sorted(
                (key, tuple(a), tuple(b)) for key, a, b in expected["mismatched_keys"]
            )
        assert [key for key, *_ in info["mismatched_keys"]] == (
            ["classifier.bias", "classifier.weight"] if name == CLASS.__name__ else []
        )


def test_a_forced_download_replaces_a_damaged_file_in_the_cache(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    with FakeHub() as hub:
        hub.use(monkeypatch)
        hub.push("team/model", files)
        options: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
        load_pretrained(CLASS, "team/model", **options)
        for path in (tmp_path / "cache").rglob("model.safetensors"):
            path.resolve().write_bytes(b"damaged")
        fails(CheckpointError, "team/model", "model.safetensors", **options)
        load_pretrained(CLASS, "team/model", force_download=True, **options)
        assert load_pretrained(CLASS, "team/model", **options).name_or_path == "team/model"


def test_an_older_name_of_the_token_opens_a_gated_repository(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    with FakeHub() as hub:
        hub.use(monkeypatch)
        hub.push("team/gated", files, gated=True)
        fails(CheckpointError, "team/gated", "gated", cache_dir=tmp_path, token=False)
        load_pretrained(CLASS, "team/gated", cache_dir=tmp_path, use_auth_token="hf_test")


# Devices


@pytest.mark.parametrize("device_map", ["cpu", torch.device("cpu"), {"": "cpu"}])
def test_a_device_map_of_one_device_is_that_device(device_map: Any, saved: Path) -> None:
    assert load_pretrained(CLASS, saved, device_map=device_map).device == torch.device("cpu")


def test_device_maps_that_make_no_sense_are_refused(saved: Path) -> None:
    fails(ArgumentError, saved, "'gpu'", device_map="gpu")
    fails(ArgumentError, saved, "True", device_map=True)
    fails(ArgumentError, saved, "one of the two", device_map="cpu", device="cpu")
    (saved / "model.safetensors").unlink()
    save_quantized(make(CLASS, num_labels=3), saved)
    fails(ArgumentError, saved, "'gpu'", device_map="gpu")
    load_pretrained(CLASS, saved, device_map="cpu")
    load_pretrained(CLASS, saved, device_map="auto")
    fails(ArgumentError, saved, "int8", device_map={"transformer": "cpu", "classifier": "disk"}, cls=CLASS)


def test_fields_of_transformers_configuration_that_mean_nothing_here_are_kept(saved: Path) -> None:
    loaded = CLASS.from_pretrained(saved, bos_token_id=3, eos_token_id=None, chunk_size_feed_forward=2)
    assert loaded.config.bos_token_id == 3
    assert_same(loaded.state_dict(), make(CLASS, num_labels=3).state_dict())


# Saving


def test_a_state_dict_is_saved_in_place_of_the_models(tmp_path: Path) -> None:
    model, other = make(SqueezeBertForMaskedLM), make(SqueezeBertForMaskedLM, seed=1)
    model.save_pretrained(tmp_path, state_dict=other.state_dict())
    assert_same(SqueezeBertForMaskedLM.from_pretrained(tmp_path).state_dict(), other.state_dict())
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "model.safetensors")


def test_another_process_than_the_main_one_writes_nothing(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


def test_saving_takes_what_cannot_matter_and_refuses_what_would(tmp_path: Path) -> None:
    make().save_pretrained(
        tmp_path, safe_serialization=True, save_function=torch.save, variant=None, token=None
    )
    for options in ({"safe_serialization": False}, {"variant": "fp16"}, {"saef_serialization": True}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            make().save_pretrained(tmp_path / "y", **options)
    assert not (tmp_path / "y").exists()


class Uploads:
    """Stands in for the hub: what `HfApi` was asked, by its own signatures, and the files it would have sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        for name in ("create_repo", "create_branch", "upload_folder"):
            original = getattr(huggingface_hub.HfApi, name)
            monkeypatch.setattr(
                huggingface_hub.HfApi, name, create_autospec(original, side_effect=self.answer(name))
            )

    def answer(self, name: str) -> Any:
        def called(api: huggingface_hub.HfApi, *args: Any, **options: Any) -> Any:
            self.calls.append((name, {"token": api.token, **dict(enumerate(args)), **options}))
            if name == "create_repo":
                return huggingface_hub.RepoUrl(f"https://huggingface.co/team/{args[0].rpartition('/')[2]}")
            if name == "create_branch":
                return None
            folder = Path(options["folder_path"])
            self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
            return "commit"

        return called


def test_a_model_and_a_configuration_are_pushed_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Uploads(monkeypatch)
    model = make(CLASS, num_labels=3)
    done = model.push_to_hub(
        "team/model", commit_message="first", private=True, token="hf_test", create_pr=True
    )
    assert done == "commit"
    (made, created), (sent, commit) = hub.calls
    assert (made, created["token"], created[0], created["private"]) == (
        "create_repo",
        "hf_test",
        "team/model",
        True,
    )
    assert (sent, commit["repo_id"], commit["commit_message"]) == ("upload_folder", "team/model", "first")
    assert commit["create_pr"] is True
    model.save_pretrained(tmp_path / "mine")
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    model.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert hub.calls[-1][1]["repo_id"] == "team/mine"
    model.config.push_to_hub("team/config")
    assert hub.files == {"config.json": model.config.to_json_string().encode()}
    model.push_to_hub("team/model", revision="v2")
    (_, (made, branch), (_, commit)) = hub.calls[-3:]
    assert (made, branch["branch"], commit["revision"]) == ("create_branch", "v2", "v2")
    for pushed in (model, model.config):
        pushed.push_to_hub("team/model", use_temp_dir=True, tags=None)
        pushed.save_pretrained(tmp_path / "here", use_temp_dir=False)
        for options in ({"comit_message": "x"}, {"tags": ["x"]}):
            with pytest.raises(ArgumentError, match=next(iter(options))):
                pushed.push_to_hub("team/model", **options)
            with pytest.raises(ArgumentError, match=next(iter(options))):
                pushed.save_pretrained(tmp_path / "there", **options)
    assert not (tmp_path / "there").exists()


def test_a_refusal_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub:
        hub.use(monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        with pytest.raises(CheckpointError, match=r"^uploading to team/model failed: [^\n]*$"):
            make().push_to_hub("team/model", token="hf_test")
