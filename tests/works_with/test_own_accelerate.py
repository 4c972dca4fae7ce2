"""accelerate spreads and offloads this package's own models: each gives the results that it gave before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

from squeezebert_fast import modeling
from squeezebert_fast.errors import ArgumentError
from tests.loading_helpers import assert_same, fails
from tests.model_pairs import CLASSES, inputs_for, pair, tiny_config

CONFIG = tiny_config(num_labels=2)
# Where the decoder is on another device than the word embeddings it is tied to, accelerate loses it, in transformers'
# model too.
UNTIED = tiny_config(num_labels=2, tie_word_embeddings=False)
every_class = pytest.mark.parametrize("name", CLASSES)


def results(name: str, model: nn.Module) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return tuple(model(**inputs_for(name, CONFIG))[:2])


def split(model: Any, first: str, rest: str) -> dict[str, str]:
    """A map that has the embeddings and the first layer on one device, everything else on another."""
    bare = "" if model.base_model is model else "transformer."
    parts = {f"{bare}embeddings": first, f"{bare}encoder.layers.0": first, f"{bare}encoder.layers.1": rest}
    heads = {name: rest for name, _ in model.named_children() if name != "transformer"}
    return parts | {f"{bare}pooler": rest} | ({} if not bare else heads)


def assert_all_offloaded(model: nn.Module) -> None:
    assert all(parameter.is_meta for parameter in model.parameters())


@every_class
def test_a_model_is_offloaded_to_the_cpu_and_to_the_disk(name: str, tmp_path: Path) -> None:
    expected = results(name, pair(name, CONFIG)[0])
    for offload in (
        lambda model: accelerate.cpu_offload(model, "cpu"),
        lambda model: accelerate.disk_offload(model, str(tmp_path), "cpu"),
    ):
        model = offload(pair(name, CONFIG)[0])
        assert_all_offloaded(model)
        for _ in range(2):  # the weights go again after each forward
            assert all(map(torch.equal, results(name, model), expected))
            assert_all_offloaded(model)


@every_class
@pytest.mark.parametrize(("first", "rest"), [("cpu", "disk"), ("disk", "cpu")])
def test_a_model_is_spread_over_places(name: str, first: str, rest: str, tmp_path: Path) -> None:
    model, _ = pair(name, CONFIG)
    expected = results(name, model)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    places = split(model, first, rest)
    if name.endswith("Model"):
        places = {key: place for key, place in places.items() if key not in ("encoder",)}
        places = {
            key: place for key, place in places.items() if not key.startswith("encoder") or "layers" in key
        }
    spread = accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=str(tmp_path / "weights")
    )
    assert all(map(torch.equal, results(name, spread), expected))
    spread.save_pretrained(tmp_path / "saved")
    assert_same(type(model).from_pretrained(tmp_path / "saved").state_dict(), state)


@every_class
def test_a_checkpoint_is_loaded_into_an_empty_model(name: str, tmp_path: Path) -> None:
    model, _ = pair(name, UNTIED)
    expected = results(name, model)
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    with accelerate.init_empty_weights():
        empty = type(model)(UNTIED)
    assert_all_offloaded(empty)
    empty.tie_weights()
    loaded = accelerate.load_checkpoint_and_dispatch(
        empty,
        str(tmp_path / "saved"),
        device_map=split(empty, "cpu", "disk"),
        offload_folder=str(tmp_path / "weights"),
        no_split_module_classes=empty._no_split_modules,
    )
    assert all(map(torch.equal, results(name, loaded.eval()), expected))


@every_class
def test_a_map_that_accelerate_infers_keeps_layers_whole(name: str) -> None:
    model, _ = pair(name, UNTIED)
    largest = max(sum(p.nbytes for p in layer.parameters()) for layer in model.base_model.encoder.layers)
    for budget in range(largest, 8 * largest, largest // 2):
        places = accelerate.infer_auto_device_map(
            model, {"cpu": budget, "disk": 10**12}, no_split_module_classes=model._no_split_modules
        )
        for key in places:
            assert ".layers." not in f".{key}" or key.split("layers.")[1].isdigit(), places
            assert "embeddings." not in key, places


# from_pretrained


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pair("SqueezeBertForMaskedLM", CONFIG)[0].save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("kind", ["auto", "balanced", "balanced_low_0", "sequential", "map", "whole"])
def test_from_pretrained_spreads_a_model_by_a_device_map(kind: str, saved: Path, tmp_path: Path) -> None:
    original, _ = pair("SqueezeBertForMaskedLM", CONFIG)
    maps = {"map": split(original, "cpu", "disk"), "whole": {"": "disk"}}
    model = modeling.SqueezeBertForMaskedLM.from_pretrained(
        saved, device_map=maps.get(kind, kind), offload_folder=tmp_path / "weights"
    )
    assert model.hf_device_map
    assert any(parameter.is_meta for parameter in model.parameters()) == (kind in maps)
    name = "SqueezeBertForMaskedLM"
    assert all(map(torch.equal, results(name, model), results(name, original)))


def test_a_map_that_does_not_fit_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    cls = modeling.SqueezeBertForMaskedLM
    fails(
        ArgumentError,
        saved,
        "device_map",
        "offload",
        device_map={"transformer": "disk", "cls": "cpu"},
        cls=cls,
    )
    fails(ArgumentError, saved, "device_map", "transformer", device_map={"cls": "cpu"}, cls=cls)
