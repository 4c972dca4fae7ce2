"""Our models compute what transformers' compute: outputs, losses and gradients, within the tolerance rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast.modeling as modeling
from tests.helpers import assert_within_rule
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, random_config, tiny_config

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
transformers_5 = int(transformers.__version__.split(".")[0]) >= 5


def exact_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def judged_tensors(outputs: Any) -> list[Tensor]:
    """What the rule is applied to: a loss together with its logits, since one number's error is luck."""
    head = [value.flatten() for value in outputs.to_tuple() if isinstance(value, Tensor)]
    inside = [tensor for value in outputs.to_tuple() if isinstance(value, tuple) for tensor in value]
    return [torch.cat(head), *inside]


def assert_same_results(ours: nn.Module, theirs: nn.Module, **inputs: Any) -> Any:
    """Every output tensor within the rule; the same fields are present. Returns our outputs."""
    exact_model = copy.deepcopy(theirs).double()
    with torch.no_grad():
        actual, expected, exact = ours(**inputs), theirs(**inputs), exact_model(**exact_inputs(inputs))
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert isinstance(value, tuple) or actual[key].shape == value.shape, key
    for i, tensors in enumerate(zip(*map(judged_tensors, (actual, expected, exact)), strict=True)):
        assert_within_rule(*tensors, f"tensor {i} of {list(actual)}", whole_model=True)
    return actual


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_gives_transformers_results_on_random_configurations(name: str, seed: int) -> None:
    config = random_config(seed)
    ours, theirs = pair(name, config, seed)
    # enough sequences that the largest error of a head with two numbers each is not luck
    inputs = inputs_for(name, config, seed, batch=16 + seed % 3, tokens=1 + seed)
    inputs |= labels_for(name, config, inputs, seed)
    assert_same_results(ours, theirs, **inputs, output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_gives_transformers_results_in_every_precision(name: str, dtype: torch.dtype) -> None:
    config = tiny_config(hidden_size=48, q_groups=2, initializer_range=0.1)
    ours, theirs = pair(name, config)
    inputs = inputs_for(name, config)
    assert_same_results(ours.to(dtype), theirs.to(dtype), **inputs, output_hidden_states=True)


@pytest.mark.parametrize("name", CLASSES)
def test_state_dict_has_transformers_names_shapes_and_order(name: str) -> None:
    config = tiny_config()
    ours = getattr(modeling, name)(config).state_dict()
    theirs = getattr(transformers, name)(
        transformers.SqueezeBertConfig.from_dict(config.to_dict())
    ).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(ours) == list(theirs)


@pytest.mark.parametrize(
    "act", sorted({"prelu", "xielu", "relu", "relu2", "laplace"} & set(transformers.activations.ACT2FN))
)
def test_activations_with_and_without_parameters_serve_a_whole_model(act: str) -> None:
    config = tiny_config(hidden_act=act)
    ours, theirs = pair("SqueezeBertForMaskedLM", config)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same_results(ours, theirs, **inputs_for("SqueezeBertForMaskedLM", config))


@pytest.mark.parametrize(
    "mask_dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_padding_mask_of_any_dtype_with_a_row_of_zeros(mask_dtype: torch.dtype, dtype: torch.dtype) -> None:
    config = tiny_config(initializer_range=0.1)
    ours, theirs = pair("SqueezeBertModel", config)
    inputs = inputs_for("SqueezeBertModel", config)
    inputs["attention_mask"][1] = 0
    inputs["attention_mask"] = inputs["attention_mask"].to(mask_dtype)
    outputs = assert_same_results(ours.to(dtype), theirs.to(dtype), **inputs)
    assert all(torch.isfinite(tensor).all() for tensor in outputs.to_tuple())


@pytest.mark.skipif(not transformers_5, reason="transformers 4 refuses 4-D masks for SqueezeBERT")
@pytest.mark.parametrize("shape", [(3, 1, 7, 7), (3, 4, 7, 7), (1, 1, 7, 7), (3, 1, 1, 7), (1, 4, 7, 1)])
@pytest.mark.parametrize("kind", ["float", "lowest", "bool", "long"])
def test_a_4d_mask_is_added_as_it_is(shape: tuple[int, ...], kind: str) -> None:
    config = tiny_config()
    ours, theirs = pair("SqueezeBertModel", config)
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4
    mask = {
        "float": torch.randn(shape, generator=torch.Generator().manual_seed(2)),
        "lowest": torch.where(keep, 0.0, -1e4),
        "bool": keep,
        "long": keep.long(),
    }[kind]
    inputs = inputs_for("SqueezeBertModel", config) | {"attention_mask": mask}
    assert_same_results(ours, theirs, **inputs, output_attentions=True)


def test_a_4d_mask_may_be_narrower_than_the_model() -> None:
    config = tiny_config()
    model, _ = pair("SqueezeBertModel", config)
    inputs = inputs_for("SqueezeBertModel", config)
    mask = torch.zeros(3, 1, 7, 7).masked_fill(inputs["attention_mask"][:, None, None, :] == 0, -1e4)
    wide = model(**inputs | {"attention_mask": mask.bfloat16().float()})[0]
    assert torch.equal(model(**inputs | {"attention_mask": mask.bfloat16()})[0], wide)


def test_padding_does_not_change_a_sequence() -> None:
    config = tiny_config()
    model, _ = pair("SqueezeBertModel", config)
    ids = inputs_for("SqueezeBertModel", config, tokens=9)["input_ids"]
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    torch.testing.assert_close(model(ids, mask)[0][:, :5], model(ids[:, :5])[0])


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "SqueezeBertForMultipleChoice"])
def test_embeddings_and_positions_may_be_handed_in(name: str) -> None:
    config = tiny_config()
    ours, theirs = pair(name, config)
    inputs = inputs_for(name, config)
    ids = inputs.pop("input_ids")
    inputs["inputs_embeds"] = torch.randn(
        *ids.shape, config.hidden_size, generator=torch.Generator().manual_seed(3)
    )
    for positions in (torch.arange(7, 0, -1)[None], torch.arange(21).reshape(3, 7) % 19):
        assert_same_results(ours, theirs, **inputs, position_ids=positions)


def test_embeddings_may_be_handed_in_for_multiple_choice() -> None:
    config = tiny_config()
    ours, theirs = pair("SqueezeBertForMultipleChoice", config)
    generator = torch.Generator().manual_seed(4)
    embeds = torch.randn(2, 3, 5, config.hidden_size, generator=generator)
    positions = torch.arange(5).expand(2, 3, 5).contiguous()
    outputs = assert_same_results(ours, theirs, inputs_embeds=embeds, position_ids=positions)
    assert outputs.logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        (None, 1, torch.tensor([0.5, -1.0, 2.0])),
        (None, 3, torch.tensor([0, 2, 1])),
        (None, 3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.5, 1.0, 0.0]])),
        ("regression", 1, torch.tensor([[0.5], [-1.0], [2.0]])),
        ("regression", 3, torch.arange(9.0).reshape(3, 3)),
        ("single_label_classification", 3, torch.tensor([[0], [2], [-100]])),
        ("multi_label_classification", 3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])),
    ],
)
def test_sequence_losses_of_every_problem_type(
    problem_type: str | None, num_labels: int, labels: Tensor
) -> None:
    config = tiny_config(problem_type=problem_type, num_labels=num_labels)
    ours, theirs = pair("SqueezeBertForSequenceClassification", config)
    inputs = inputs_for("SqueezeBertForSequenceClassification", config)
    assert_same_results(ours, theirs, **inputs, labels=labels)
    assert ours.config.problem_type == theirs.config.problem_type
    loss = ours(**inputs, labels=labels).loss
    loss.backward()
    assert loss.dim() == 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_gradients_of_every_parameter(name: str, training: bool) -> None:
    config = random_config(5, num_hidden_layers=2)
    ours, theirs = pair(name, config)
    inputs = inputs_for(name, config)
    inputs |= labels_for(name, config, inputs)
    exact = copy.deepcopy(theirs).double()
    for model in (ours, theirs, exact):
        model.train(training)
        outputs = model(**inputs)
        (
            outputs[0] if outputs[0].dim() == 0 else (outputs[0].sin().sum() + outputs[1].cos().sum())
        ).backward()
    references = {n: (p.grad, dict(exact.named_parameters())[n].grad) for n, p in theirs.named_parameters()}
    relative: list[tuple[Tensor, ...]] = []
    for parameter_name, parameter in ours.named_parameters():
        expected, exact_grad = references[parameter_name]
        assert (parameter.grad is None) == (expected is None), (
            parameter_name
        )  # the pooler, under a tokens' loss
        if expected is None:
            continue
        scale = exact_grad.abs().max().item()
        if scale < 1e-12:  # shifts softmax's inputs alike, as a key's bias does: 0 but for rounding
            assert parameter.grad.abs().max() < 1e-5, parameter_name
        else:
            relative.append(tuple((g / scale).flatten() for g in (parameter.grad, expected, exact_grad)))
    # Each parameter counts by its own scale, but together: the error of one small bias alone is luck.
    assert_within_rule(
        *(torch.cat(each) for each in zip(*relative, strict=True)), "gradients", whole_model=True
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_tuple_holds_what_transformers_tuple_holds(name: str) -> None:
    config = tiny_config()
    ours, theirs = pair(name, config)
    inputs = inputs_for(name, config)
    for extra in ({}, labels_for(name, config, inputs)):
        for options in ({}, {"output_attentions": True}, {"output_hidden_states": True}):
            actual = ours(**inputs, **extra, **options, return_dict=False)
            expected = theirs(**inputs, **extra, **options, return_dict=False)
            assert type(actual) is tuple
            assert [type(v) for v in actual] == [type(v) for v in expected]


def test_the_configuration_chooses_what_the_call_leaves_open() -> None:
    config = tiny_config(output_attentions=True, output_hidden_states=True, return_dict=False)
    model = modeling.SqueezeBertForMaskedLM(config)
    inputs = inputs_for("SqueezeBertForMaskedLM", config)
    logits, hidden_states, attentions = model(**inputs)
    assert (len(hidden_states), len(attentions)) == (3, 2)
    assert list(model(**inputs, output_attentions=False, return_dict=True)) == ["logits", "hidden_states"]
    assert logits.shape == (3, 7, 61)


def test_layer_norms_inside_layers_ignore_the_configured_epsilon() -> None:
    config = tiny_config(layer_norm_eps=0.5)
    ours, theirs = pair("SqueezeBertForMaskedLM", config)
    assert ours.transformer.encoder.layers[0].output.layernorm.eps == 1e-12
    assert ours.transformer.embeddings.LayerNorm.eps == ours.cls.predictions.transform.LayerNorm.eps == 0.5
    assert_same_results(ours, theirs, **inputs_for("SqueezeBertForMaskedLM", config))


def test_an_empty_batch_gives_empty_outputs() -> None:
    for name in CLASSES:
        config = tiny_config()
        ours, theirs = pair(name, config)
        shape = (0, 2, 5) if name.endswith("MultipleChoice") else (0, 5)
        ids = torch.zeros(shape, dtype=torch.long)
        for actual, expected in zip(ours(ids).to_tuple(), theirs(ids).to_tuple(), strict=True):
            assert actual.shape == expected.shape


def test_autocast_gives_bfloat16_like_transformers() -> None:
    config = tiny_config(initializer_range=0.1)
    ours, theirs = pair("SqueezeBertForTokenClassification", config)
    inputs = inputs_for("SqueezeBertForTokenClassification", config)
    exact = copy.deepcopy(theirs).double()(**inputs).logits
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert_within_rule(ours(**inputs).logits, theirs(**inputs).logits, exact, "logits", whole_model=True)
