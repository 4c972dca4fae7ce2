"""What a model refuses, in one line that names the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from squeezebert_fast.errors import ArgumentError, ConfigError, UnsupportedError
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
)
from tests.model_pairs import tiny_config

IDS = torch.ones(2, 5, dtype=torch.long)
EMBEDS = torch.zeros(2, 5, 24)


def assert_refused(model: torch.nn.Module, parts: list[str], **inputs: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        model(**inputs)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({}, ["input_ids", "inputs_embeds", "neither"]),
        ({"input_ids": IDS, "inputs_embeds": EMBEDS}, ["input_ids", "inputs_embeds", "both"]),
        ({"input_ids": IDS[0]}, ["input_ids", "[5]", "[batch, tokens]"]),
        ({"input_ids": IDS[None]}, ["input_ids", "[1, 2, 5]"]),
        ({"input_ids": [[1, 2]]}, ["input_ids", "list"]),
        ({"input_ids": IDS.float()}, ["input_ids", "float32", "int64"]),
        ({"input_ids": IDS[:, :0]}, ["input_ids", "no tokens"]),
        ({"input_ids": torch.ones(1, 20, dtype=torch.long)}, ["20 tokens", "max_position_embeddings (19)"]),
        ({"inputs_embeds": torch.zeros(1, 20, 24)}, ["20 tokens", "max_position_embeddings (19)"]),
        ({"input_ids": IDS * 61}, ["input_ids", "61", "vocab_size - 1 = 60"]),
        ({"input_ids": -IDS}, ["input_ids", "-1", "0"]),
        ({"input_ids": IDS.int() * 99}, ["input_ids", "99"]),
        ({"input_ids": IDS, "token_type_ids": IDS * 2}, ["token_type_ids", "2", "type_vocab_size - 1 = 1"]),
        (
            {"input_ids": IDS, "position_ids": IDS * 19},
            ["position_ids", "19", "max_position_embeddings - 1 = 18"],
        ),
        ({"input_ids": IDS, "token_type_ids": IDS[:, :4]}, ["token_type_ids", "[2, 4]", "[2, 5]"]),
        ({"input_ids": IDS, "token_type_ids": IDS.bool()}, ["token_type_ids", "bool"]),
        ({"input_ids": IDS, "position_ids": torch.ones(3, 5, dtype=torch.long)}, ["position_ids", "[3, 5]"]),
        ({"inputs_embeds": EMBEDS[..., :23]}, ["inputs_embeds", "[2, 5, 23]", "24"]),
        ({"inputs_embeds": EMBEDS[0]}, ["inputs_embeds", "[5, 24]"]),
        ({"input_ids": IDS.to("meta")}, ["input_ids", "meta", "cpu"]),
        ({"inputs_embeds": EMBEDS.to("meta")}, ["inputs_embeds", "meta", "cpu"]),
        ({"input_ids": IDS, "token_type_ids": IDS.to("meta")}, ["token_type_ids", "meta", "cpu"]),
        ({"input_ids": IDS, "attention_mask": IDS.to("meta")}, ["attention_mask", "meta", "cpu"]),
        ({"inputs_embeds": EMBEDS.long()}, ["inputs_embeds", "int64"]),
        ({"inputs_embeds": EMBEDS.double()}, ["inputs_embeds", "float64", "float32"]),
        ({"input_ids": IDS, "attention_mask": [[1] * 5] * 2}, ["attention_mask", "list"]),
        ({"input_ids": IDS, "attention_mask": IDS[:, :4]}, ["attention_mask", "[2, 4]", "[2, 5]"]),
        ({"input_ids": IDS, "attention_mask": IDS[:, :1]}, ["attention_mask", "[2, 1]"]),
        ({"input_ids": IDS, "attention_mask": IDS[:1]}, ["attention_mask", "[1, 5]"]),
        ({"input_ids": IDS, "attention_mask": IDS[0]}, ["attention_mask", "[5]"]),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 5, 5)}, ["attention_mask", "[2, 5, 5]"]),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 3, 5, 5)}, ["attention_mask", "[2, 4, 5, 5]"]),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 5, 4)}, ["attention_mask", "[2, 1, 5, 4]"]),
        (
            {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 5, 5, dtype=torch.float64)},
            ["attention_mask", "float64", "float32"],
        ),
    ],
)
def test_bad_inputs_are_refused(inputs: dict[str, Any], parts: list[str]) -> None:
    assert_refused(SqueezeBertModel(tiny_config()), parts, **inputs)


def test_positions_of_ones_own_may_be_reused_beyond_the_limit() -> None:
    ids = torch.ones(1, 25, dtype=torch.long)
    model = SqueezeBertModel(tiny_config())
    assert model(ids, position_ids=torch.arange(25)[None] % 19)[0].shape == (1, 25, 24)


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"input_ids": IDS}, ["input_ids", "[2, 5]", "3 dimensions"]),
        ({"input_ids": IDS[0]}, ["[batch, choices, tokens]"]),
        ({}, ["input_ids", "inputs_embeds"]),
        ({"input_ids": IDS[None], "attention_mask": IDS}, ["attention_mask", "[2, 5]"]),
        ({"input_ids": IDS[None], "attention_mask": IDS[None, :1]}, ["attention_mask", "[1, 1, 5]"]),
        ({"input_ids": IDS[None], "token_type_ids": [1]}, ["token_type_ids", "list"]),
        ({"input_ids": IDS[None], "labels": torch.tensor([2])}, ["labels", "2", "1"]),
    ],
)
def test_choices_of_the_wrong_shape_are_refused(inputs: dict[str, Any], parts: list[str]) -> None:
    assert_refused(SqueezeBertForMultipleChoice(tiny_config()), parts, **inputs)


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "parts"),
    [
        ("regression", 1, torch.ones(1), ["labels", "[1]", "[2, 1]"]),
        ("regression", 3, torch.ones(2), ["labels", "[2]", "[2, 3]"]),
        ("regression", 3, torch.ones(3, 2), ["labels", "[3, 2]", "[2, 3]"]),
        ("multi_label_classification", 3, torch.ones(3), ["labels", "[3]", "[2, 3]"]),
        ("single_label_classification", 3, torch.ones(2), ["labels", "float32", "int64"]),
        (
            "single_label_classification",
            3,
            torch.tensor([0, 3]),
            ["labels", "3", "number of classes - 1 = 2"],
        ),
        ("single_label_classification", 3, torch.tensor([0, -1]), ["labels", "-1"]),
        ("single_label_classification", 3, torch.tensor([0]), ["labels", "[1]", "[2]"]),
    ],
)
def test_labels_that_would_broadcast_or_overflow_are_refused(
    problem_type: str, num_labels: int, labels: torch.Tensor, parts: list[str]
) -> None:
    config = tiny_config(problem_type=problem_type, num_labels=num_labels)
    assert_refused(SqueezeBertForSequenceClassification(config), parts, input_ids=IDS, labels=labels)


def test_token_labels_of_another_shape_are_refused() -> None:
    model = SqueezeBertForTokenClassification(tiny_config())
    assert_refused(model, ["labels", "[5, 2]", "[2, 5]"], input_ids=IDS, labels=IDS.T)
    assert torch.equal(model(IDS, labels=IDS).loss, model(IDS, labels=IDS.flatten()).loss)


def test_integer_targets_of_a_regression_train() -> None:
    model = SqueezeBertForSequenceClassification(tiny_config(num_labels=1))
    loss = model(IDS, labels=torch.tensor([3, -1])).loss
    loss.backward()
    assert torch.equal(loss, model(IDS, labels=torch.tensor([3.0, -1.0])).loss)


def test_one_end_of_an_answer_is_not_enough() -> None:
    model = SqueezeBertForQuestionAnswering(tiny_config())
    assert_refused(model, ["end_positions"], input_ids=IDS, start_positions=torch.tensor([0, 1]))
    assert_refused(model, ["start_positions"], input_ids=IDS, end_positions=torch.tensor([0, 1]))


def test_an_answer_has_two_ends() -> None:
    with pytest.raises(ConfigError, match="num_labels is 3, expected 2"):
        SqueezeBertForQuestionAnswering(tiny_config(num_labels=3))


@pytest.mark.parametrize(
    "options", [{"new_num_tokens": 0}, {"new_num_tokens": 7.0}, {"pad_to_multiple_of": -8}]
)
def test_vocabulary_sizes_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    model = SqueezeBertForMaskedLM(tiny_config())
    with pytest.raises(ArgumentError, match=next(iter(options))):
        model.resize_token_embeddings(**options)
    assert model.config.vocab_size == 61


def test_a_model_without_a_decoder_takes_none() -> None:
    model = SqueezeBertModel(tiny_config())
    assert model.get_output_embeddings() is None
    with pytest.raises(UnsupportedError, match="SqueezeBertModel"):
        model.set_output_embeddings(torch.nn.Linear(24, 61))
