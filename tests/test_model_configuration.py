"""The configuration: transformers' form and defaults, and one clear error for every inconsistency."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ConfigError
from squeezebert_fast.modeling import SqueezeBertModel


def test_defaults_are_transformers_defaults() -> None:
    theirs = transformers.SqueezeBertConfig().to_dict()
    ours = SqueezeBertConfig().to_dict()
    shared = ours.keys() & theirs.keys() - {"transformers_version"}
    assert {"hidden_size", "q_groups", "layer_norm_eps", "embedding_size", "model_type", "id2label"} <= shared
    assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}


def test_a_configuration_survives_transformers_and_back(tmp_path: Path) -> None:
    ours = SqueezeBertConfig(
        hidden_size=64, num_attention_heads=8, num_labels=5, k_groups=8, problem_type="regression"
    )
    ours.save(tmp_path / "config.json")
    theirs = transformers.SqueezeBertConfig.from_json_file(tmp_path / "config.json")
    theirs.to_json_file(tmp_path / "theirs.json")
    back = SqueezeBertConfig.from_json_file(tmp_path / "theirs.json")
    assert (back.num_labels, back.k_groups, back.embedding_size) == (5, 8, 64)
    back.extra = {}
    assert back == ours


def test_unknown_keys_of_a_file_are_kept_and_written_back(tmp_path: Path) -> None:
    data = {
        "model_type": "squeezebert",
        "my_key": {"a": [1]},
        "transformers_version": "4.1.0",
        "num_labels": 3,
    }
    config = SqueezeBertConfig.from_dict(data)
    assert config.num_labels == 3
    assert config.extra == {"my_key": {"a": [1]}, "transformers_version": "4.1.0"}
    config.save(tmp_path / "config.json")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["my_key"] == {"a": [1]}
    assert SqueezeBertConfig.from_json_file(tmp_path / "config.json") == config


def test_reading_leaves_the_callers_dictionary_alone() -> None:
    data = {"model_type": "squeezebert", "id2label": {"0": "no", "1": "yes"}, "torch_dtype": "float16"}
    before = copy.deepcopy(data)
    config = SqueezeBertConfig.from_dict(data)
    assert data == before
    assert (config.id2label, config.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    assert config.dtype == "float16"


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"num_labels": 2}, ["no", "yes"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {0: "a", 1: "b"}}, ["a", "b"]),
        ({"label2id": {"x": 0}}, ["x"]),
        ({"id2label": {0: "a"}, "num_labels": 1}, ["a"]),
        ({"q_groups": 2}, ["no", "yes"]),
    ],
)
def test_overrides_replace_a_files_values(overrides: dict[str, Any], names: list[str]) -> None:
    data = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2}
    config = SqueezeBertConfig.from_dict(data, **overrides)
    assert list(config.id2label.values()) == names
    assert config.label2id == {name: index for index, name in enumerate(names)}
    assert config.num_labels == len(names)


def test_the_number_of_labels_is_assignable() -> None:
    config = SqueezeBertConfig(id2label={0: "a", 1: "b"})
    config.num_labels = 2
    assert config.id2label == {0: "a", 1: "b"}
    config.num_labels = 4
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2, "LABEL_3": 3}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"q_groups": 5}, ["q_groups", "5", "hidden_size (768)"]),
        ({"k_groups": 0}, ["k_groups", "0", "positive integer"]),
        ({"v_groups": -4}, ["v_groups", "-4"]),
        ({"post_attention_groups": 7}, ["post_attention_groups", "7"]),
        ({"intermediate_groups": 9, "intermediate_size": 3078}, ["intermediate_groups", "9", "hidden_size"]),
        (
            {"output_groups": 4, "intermediate_size": 3070},
            ["intermediate_groups", "intermediate_size (3070)"],
        ),
        ({"output_groups": 5, "intermediate_size": 3072}, ["output_groups", "5", "intermediate_size (3072)"]),
        ({"num_attention_heads": 7}, ["num_attention_heads", "7", "hidden_size (768)"]),
        ({"embedding_size": 128}, ["embedding_size", "128", "768"]),
        ({"hidden_act": "gelo"}, ["hidden_act", "'gelo'", "gelu_new"]),
        ({"hidden_act": ["gelu"]}, ["hidden_act"]),
        ({"hidden_size": "768"}, ["hidden_size", "'768'"]),
        ({"hidden_size": 768.0}, ["hidden_size", "768.0"]),
        ({"vocab_size": True}, ["vocab_size", "True"]),
        ({"num_hidden_layers": -1}, ["num_hidden_layers", "-1"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob", "1.5"]),
        ({"attention_probs_dropout_prob": None}, ["attention_probs_dropout_prob", "None"]),
        ({"layer_norm_eps": float("nan")}, ["layer_norm_eps", "nan"]),
        ({"initializer_range": "small"}, ["initializer_range", "'small'"]),
        ({"pad_token_id": 30522}, ["pad_token_id", "30522"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "'yes'"]),
        ({"problem_type": "classification"}, ["problem_type", "'classification'"]),
        ({"problem_type": "single_label_classification", "num_labels": 1}, ["problem_type", "num_labels"]),
        ({"num_labels": 0}, ["num_labels", "0"]),
        ({"num_labels": 3, "id2label": {0: "a"}}, ["num_labels", "3", "1"]),
        ({"id2label": {"x": "a"}}, ["id2label", "x"]),
        ({"id2label": {}}, ["id2label", "{}"]),
        ({"id2label": ["a", "b"]}, ["id2label", "mapping"]),
        ({"architectures": "SqueezeBertModel"}, ["architectures"]),
        ({"dtype": "float17"}, ["dtype", "'float17'"]),
        ({"q_group": 2}, ["q_group", "did you mean q_groups?"]),
        ({"zzz": 2}, ["zzz"]),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_the_expectation(
    fields: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        SqueezeBertConfig(**fields)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    "data", [{"model_type": "bert"}, {"model_type": None}, [], None, {"id2label": 3, "x": 1}]
)
def test_a_config_of_another_kind_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError):
        SqueezeBertConfig.from_dict(data, num_labels=2)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content in (b'{"hidden_size": 7}', b"{", b"\xff\xfe", b"[1]"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"config\.json"):
            SqueezeBertConfig.from_json_file(path)
    with pytest.raises(ConfigError, match=r"absent\.json"):
        SqueezeBertConfig.from_json_file(tmp_path / "absent.json")


def test_a_field_spoilt_after_construction_is_found_when_a_model_is_built() -> None:
    config = SqueezeBertConfig()
    config.q_groups = 5
    with pytest.raises(ConfigError, match="q_groups"):
        SqueezeBertModel(config)


def test_a_configuration_copies_pickles_and_takes_torch_dtypes() -> None:
    config = SqueezeBertConfig(num_labels=4, dtype=torch.float16, extra={"a": 1})
    assert config.dtype == "float16"
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config  # noqa: S301
    assert config != SqueezeBertConfig(num_labels=4)
