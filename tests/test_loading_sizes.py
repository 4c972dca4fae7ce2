"""A config.json that asks for more than the weights beside it hold is refused before anything is built.

Every size here is so large that building it, or a list of it, would not end: a test that returns has refused it first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from squeezebert_fast.configuration import MAX_UNNAMED_LABELS, SqueezeBertConfig
from squeezebert_fast.errors import CheckpointError, ConfigError
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from squeezebert_fast.modeling import SqueezeBertForMaskedLM, SqueezeBertForSequenceClassification
from squeezebert_fast.modeling.bert_conversion import convert_bert
from squeezebert_fast.patching.int8_checkpoint import save_quantized
from tests.loading_helpers import SIZES, fails, make, write_bin

CLASS = SqueezeBertForSequenceClassification
HUGE = 10**12
# Fields that change together stay valid; each has the size that the file has.
HOSTILE = {
    "num_hidden_layers": ({"num_hidden_layers": 10**9}, 2),
    "vocab_size": ({"vocab_size": HUGE}, 61),
    "vocab_size beyond an address": ({"vocab_size": 10**30}, 61),
    "hidden_size": ({"hidden_size": 16 * HUGE, "embedding_size": 16 * HUGE}, 16),
    "intermediate_size": ({"intermediate_size": 32 * HUGE}, 32),
    "max_position_embeddings": ({"max_position_embeddings": HUGE}, 19),
    "type_vocab_size": ({"type_vocab_size": HUGE}, 2),
    "num_labels": ({"num_labels": HUGE}, 3),
}


def write(form: str, directory: Path) -> Path:
    model = make(CLASS, num_labels=3)
    if form == "bin":
        return write_bin(directory, model.state_dict(), model.config)
    if form == "int8":
        save_quantized(model, directory)
    else:
        save_pretrained(model, directory, max_shard_size="4KB" if form == "shards" else "5GB")
    return directory


def change(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    data = json.loads(path.read_text())
    if "num_labels" in fields:  # or the names would say how many there are
        data = {key: value for key, value in data.items() if key not in ("id2label", "label2id")}
    path.write_text(json.dumps({**data, **fields}))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "int8", "int8 dequantized"])
def test_a_size_beyond_the_files_is_refused_with_both_numbers_and_both_files(
    name: str, form: str, tmp_path: Path
) -> None:
    fields, there = HOSTILE[name]
    field = name.partition(" ")[0]
    options = {"dequantize": True} if form == "int8 dequantized" else {}
    directory = write(form.partition(" ")[0], tmp_path / "x")
    load_pretrained(CLASS, directory, **options)
    change(directory, **fields)
    weights = {"bin": "pytorch_model.bin", "int8": "model_int8.safetensors"}.get(
        form.partition(" ")[0], "model"
    )
    parts = [
        f"{field} is {fields[field]}",
        str(directory / "config.json"),
        str(directory / weights),
        str(there),
    ]
    fails(CheckpointError, directory, *parts, cls=CLASS, **options)


@pytest.mark.parametrize("name", HOSTILE)
def test_conversion_of_a_bert_compares_its_sizes_too(name: str, tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "q_groups"}
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=3))
    bert.save_pretrained(tmp_path)
    convert_bert(tmp_path)
    fields, there = HOSTILE[name]
    change(tmp_path, **{key: value for key, value in fields.items() if key != "embedding_size"})
    with pytest.raises(CheckpointError) as caught:
        convert_bert(tmp_path)
    for part in (name.partition(" ")[0], "config.json", "model.safetensors", str(there)):
        assert part in str(caught.value)


def test_an_argument_is_compared_as_well_and_called_one(tmp_path: Path) -> None:
    directory = write("safetensors", tmp_path / "x")
    fails(
        CheckpointError, directory, "num_hidden_layers is 1000000000 in an argument", num_hidden_layers=10**9
    )


def test_labels_that_only_the_file_asks_for_must_fit_the_file_and_the_callers_need_not(
    tmp_path: Path,
) -> None:
    save_pretrained(make(), tmp_path)
    change(tmp_path, num_labels=10**5)
    fails(CheckpointError, tmp_path, "num_labels is 100000", "weights in all", cls=CLASS)
    assert load_pretrained(CLASS, tmp_path, num_labels=10**4).classifier.weight.shape == (10**4, 16)
    change(tmp_path, num_labels=5)
    assert load_pretrained(CLASS, tmp_path).num_labels == 5


def test_what_the_files_hold_is_counted_not_believed(tmp_path: Path) -> None:
    model = make(SqueezeBertForMaskedLM)
    state = dict(model.state_dict())
    state["transformer.encoder.layers.999999999.output.conv1d.bias"] = torch.zeros(16)
    model.config.num_hidden_layers = 10**9
    fails(CheckpointError, write_bin(tmp_path / "a", state, model.config), "holds 3 layers")
    model.config.vocab_size, model.config.num_hidden_layers = HUGE, 2
    expanded = {"transformer.embeddings.word_embeddings.weight": torch.zeros(1).expand(HUGE, 16)}
    directory = write_bin(tmp_path / "b", {**model.state_dict(), **expanded}, model.config)
    fails(CheckpointError, directory, "word_embeddings", str(HUGE), "holds 4 bytes")


def test_a_tensor_without_values_is_no_weight(tmp_path: Path) -> None:
    model = make()
    state = {**model.state_dict(), "pooler.dense.bias": torch.zeros(16, device="meta")}
    directory = write_bin(tmp_path / "x", state, model.config)
    fails(CheckpointError, directory, "pooler.dense.bias", "meta")


@pytest.mark.parametrize(
    "key", ["embeddings.position_embeddings.weight", "encoder.layers.0.intermediate.conv1d.bias"]
)
def test_a_missing_tensor_that_would_show_a_size_is_missed(key: str, tmp_path: Path) -> None:
    model = make()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != key}
    directory = write_bin(tmp_path / "x", state, model.config)
    fails(CheckpointError, directory, "pytorch_model.bin lacks", key)


def test_without_weights_only_unnamed_labels_of_a_file_are_limited(tmp_path: Path) -> None:
    assert (
        SqueezeBertConfig(num_labels=MAX_UNNAMED_LABELS + 1, vocab_size=HUGE).num_labels
        == MAX_UNNAMED_LABELS + 1
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_labels": HUGE}))
    with pytest.raises(
        ConfigError, match=r"config\.json.*num_labels is 1000000000000, expected at most 10000"
    ):
        SqueezeBertConfig.from_json_file(path)


@pytest.mark.parametrize("depth", [900, 200_000])
def test_nesting_that_python_cannot_follow_is_an_error_that_names_the_file(
    depth: int, tmp_path: Path
) -> None:
    save_pretrained(make(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("{", '{"deep": ' + "[" * depth + "]" * depth + ",", 1))
    with pytest.raises(ConfigError, match=r"config\.json"):
        SqueezeBertConfig.from_json_file(path)
    with pytest.raises((ConfigError, CheckpointError), match=r"config\.json"):
        load_pretrained(CLASS, tmp_path)


@pytest.mark.parametrize("labels", [{"0": []}, {"0": {"a": 1}}])
def test_labels_that_are_no_names_are_refused(labels: dict[str, Any], tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path)
    change(tmp_path, id2label=labels, label2id=None)
    fails(ConfigError, tmp_path, "config.json", "id2label")
    with pytest.raises(ConfigError, match="inf"):
        SqueezeBertConfig.from_dict({"label2id": {"a": float("inf")}})
