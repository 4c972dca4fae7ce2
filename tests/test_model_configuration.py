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
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError
from squeezebert_fast.modeling import SqueezeBertForSequenceClassification, SqueezeBertModel


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
        ({"model_type": "bert"}, ["model_type", "'bert'", "'squeezebert'"]),
        ({"num_lables": 2}, ["num_lables", "did you mean num_labels?"]),
        ({"hiden_size": 768}, ["hiden_size", "did you mean hidden_size?"]),
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


# What transformers' configurations do besides


def test_an_unknown_field_is_kept_saved_and_read_as_an_attribute(tmp_path: Path) -> None:
    config = SqueezeBertConfig(attention_dropout=0.25, bos_token_id=1, classifier_dropout=None)
    config.my_note = {"a": [1]}
    config.save_pretrained(tmp_path / "new" / "folder")
    for again in (
        SqueezeBertConfig.from_pretrained(tmp_path / "new" / "folder"),
        transformers.SqueezeBertConfig.from_pretrained(tmp_path / "new" / "folder"),
        pickle.loads(pickle.dumps(config)),  # noqa: S301
        copy.deepcopy(config),
    ):
        fields = (again.attention_dropout, again.bos_token_id, again.classifier_dropout, again.my_note)
        assert fields == (0.25, 1, None, {"a": [1]})
    assert config.attention_probs_dropout_prob == 0.1, "another name, and as in transformers without effect"
    assert not hasattr(config, "quantization_config")
    with pytest.raises(AttributeError, match="hidden_sizes"):
        config.hidden_sizes  # noqa: B018


def test_the_content_of_a_file_makes_a_configuration_as_keywords_too() -> None:
    config = SqueezeBertConfig(hidden_size=64, num_attention_heads=8, num_labels=3, use_cache=True)
    assert SqueezeBertConfig(**json.loads(config.to_json_string())) == config


def test_older_names_read_and_write_the_fields() -> None:
    config = SqueezeBertConfig(torch_dtype=torch.float16, return_dict=False)
    assert (config.dtype, config.torch_dtype, config.use_return_dict) == ("float16", "float16", False)
    config.torch_dtype = torch.bfloat16
    assert config.dtype == "bfloat16"
    config.dtype = torch.float32
    config.validate()
    assert config.get_text_config(decoder=True) is config
    assert not config.is_encoder_decoder


def test_update_assigns_fields_and_keeps_the_rest() -> None:
    config = SqueezeBertConfig()
    config.update({"hidden_size": 64, "num_labels": 3, "use_cache": False})
    assert (config.hidden_size, config.num_labels, config.extra) == (64, 3, {"use_cache": False})


def test_the_difference_to_the_defaults_makes_the_same_configuration(tmp_path: Path) -> None:
    assert SqueezeBertConfig().to_diff_dict() == {"model_type": "squeezebert"}
    config = SqueezeBertConfig(q_groups=2, id2label={0: "a", 1: "b", 2: "c"}, use_cache=True)
    assert config.to_diff_dict().keys() == {"model_type", "q_groups", "id2label", "label2id", "use_cache"}
    config.to_json_file(tmp_path / "whole.json")
    config.to_json_file(tmp_path / "diff.json", use_diff=True)
    assert (tmp_path / "whole.json").read_text() == config.to_json_string()
    assert len((tmp_path / "diff.json").read_text()) < len(config.to_json_string()) / 2
    for name in ("whole.json", "diff.json"):
        assert SqueezeBertConfig.from_json_file(tmp_path / name) == config


def test_a_configuration_is_loaded_with_overrides_and_the_unknown_ones_may_be_had_back(
    tmp_path: Path,
) -> None:
    SqueezeBertConfig(hidden_size=64, num_attention_heads=4).save_pretrained(save_directory=tmp_path)
    options: dict[str, Any] = {"trust_remote_code": True, "use_auth_token": None, "force_download": True}
    config = SqueezeBertConfig.from_pretrained(tmp_path, k_groups=8, note="x", **options)
    assert (config.hidden_size, config.k_groups, config.note) == (64, 8, "x")
    assert config.name_or_path == str(tmp_path)
    assert "name_or_path" not in config.to_json_string()
    config, unused = SqueezeBertConfig.from_pretrained(
        tmp_path, k_groups=8, note="x", return_unused_kwargs=True
    )
    assert (config.k_groups, config.extra, unused) == (8, {}, {"note": "x"})
    with pytest.raises(CheckpointError, match=r"nowhere"):
        SqueezeBertConfig.from_pretrained(tmp_path / "nowhere")
    assert SqueezeBertConfig.from_pretrained(tmp_path / "config.json").hidden_size == 64
    data = config.to_dict()
    assert SqueezeBertConfig.from_dict(data, note="x", return_unused_kwargs=True) == (config, {"note": "x"})


def test_an_attribute_that_is_no_field_can_be_deleted() -> None:
    config = SqueezeBertConfig(note="x")
    del config.note
    assert config == SqueezeBertConfig()
    with pytest.raises(AttributeError, match="note"):
        del config.note


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for save in (SqueezeBertConfig().to_json_file, SqueezeBertConfig().save):
        with pytest.raises(CheckpointError, match=r"file can't be written|file is a file"):
            save(tmp_path / "file" / "config.json")


def test_a_configuration_of_transformers_makes_the_same_model() -> None:
    theirs = transformers.SqueezeBertConfig(
        vocab_size=61,
        hidden_size=16,
        embedding_size=16,
        num_attention_heads=4,
        intermediate_size=32,
        num_labels=3,
    )
    model = SqueezeBertForSequenceClassification(theirs)
    assert type(model.config) is SqueezeBertConfig
    assert model.config is model.transformer.config
    assert (model.config.num_labels, model.config.vocab_size, model.num_labels) == (3, 61, 3)
    state = transformers.SqueezeBertForSequenceClassification(theirs).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in model.state_dict().items()}
    for other in ({"hidden_size": 16}, None, "squeezebert"):
        with pytest.raises(ArgumentError, match="SqueezeBertConfig"):
            SqueezeBertModel(other)
    with pytest.raises(ConfigError, match="'bert'"):
        SqueezeBertModel(transformers.BertConfig())
