"""Patched models of transformers' families give what they gave before, by the tolerance rule, whatever the call."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import squeezebert_fast
from tests.engine_helpers import LOWEST, keep_some, native_runs, needs_native
from tests.family_pairs import (
    CASES,
    IS_TRANSFORMERS_4,
    assert_patch_keeps,
    encoder_of,
    flat,
    inputs_for,
    labels_for,
    model_of,
)
from tests.helpers import assert_within_rule

MODELS = [(name, attention) for name, attention in CASES if name.endswith("Model")]
"""Without a head, by family and kind of attention."""
KINDS = [case for case in MODELS if case[0] in ("BertModel", "RobertaModel", "DistilBertModel")]
"""Those of them whose code differs in more than names."""
NO_HOOKS = transformers.__version__.startswith(("5.0.", "5.1."))
"""Then transformers replaces the layers' forwards in a call that wants hidden states, and the layers are called."""


def has_pooler(name: str) -> bool:
    return not name.startswith(("Distil", "Electra"))


def close(actual: Any, expected: Any) -> None:
    for a, e in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_every_head_with_its_loss(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    with native_runs() as runs:
        assert_patch_keeps(model, inputs | labels_for(name, inputs), backend="cpu")
    assert runs == ["float32"]


@pytest.mark.parametrize(("name", "attention"), [case for case in MODELS if has_pooler(case[0])])
def test_without_a_pooler(name: str, attention: str) -> None:
    assert_patch_keeps(model_of(name, attention, add_pooling_layer=False), inputs_for(name))


def masks(batch: int = 3, tokens: int = 7, heads: int = 4) -> dict[str, Tensor | None]:
    """Every kind of mask that a model takes."""
    generator = torch.Generator().manual_seed(0)
    kept = {kind: keep_some(batch, tokens, kind) for kind in ("right", "left", "holes")}
    empty = kept["right"].clone()
    empty[1] = False
    scores = torch.rand(batch, heads, tokens, tokens, generator=generator) > 0.4
    blind = scores.clone()
    blind[0, :, 2] = False
    return {
        "none": None,
        **{kind: mask.long() for kind, mask in kept.items()},
        "booleans": kept["holes"],
        "floats": kept["right"].float(),
        "all ones": torch.ones(batch, tokens, dtype=torch.int64),
        "a sequence without tokens": empty.long(),
        "3-D": kept["holes"].long()[:, None] * kept["right"].long()[:, :, None],
        "4-D booleans": scores,
        "4-D booleans by key": kept["holes"][:, None, None],
        "4-D booleans with a query that attends to nothing": blind,
        "4-D numbers": torch.randn(scores.shape, generator=generator),
        "4-D lowest": torch.where(blind, 0.0, LOWEST),
        "4-D minus infinity": torch.where(scores | torch.eye(tokens, dtype=torch.bool), 0.0, -torch.inf),
        "4-D minus infinity for a whole query": torch.where(blind, 0.0, -torch.inf),
        "4-D ones and zeros": scores.float(),
    }


def outcome(model: Any, inputs: dict[str, Any]) -> Any:
    """The last hidden state, or the error of inputs that the model refuses."""
    try:
        with torch.no_grad():
            return model(**inputs)[0]
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        return type(error)


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("kind", masks())
def test_masks(kind: str, name: str, attention: str) -> None:
    model = model_of(name, attention)
    inputs = inputs_for(name) | {"attention_mask": masks()[kind]}
    same = outcome(model, inputs)
    if isinstance(same, type):
        pytest.skip(f"transformers refuses it: {same.__name__}")
    exact = copy.deepcopy(model).double()
    mask = inputs["attention_mask"]
    if mask is not None and mask.is_floating_point() and mask.dim() == 4:
        mask = mask.double()
    exact = outcome(exact, inputs | {"attention_mask": mask})
    squeezebert_fast.patch(model, backend="cpu")
    for actual in (outcome(model, inputs), first_with_gradients(model, inputs)):
        assert torch.equal(actual.isnan(), same.isnan())
        if torch.equal(same.isnan(), exact.isnan()):
            assert_within_rule(actual, same, exact, whole_model=True)
        else:  # DistilBERT of transformers 4 has float64's lowest number in float32
            close(actual, same)
    other = {"attention_mask": torch.ones(3, 7), **inputs_for(name, 1)}
    close(outcome(model, other), outcome(squeezebert_fast.unpatch(model), other))


def first_with_gradients(model: Any, inputs: dict[str, Any]) -> Tensor:
    result: Tensor = model(**inputs)[0].detach()
    return result


@needs_native
@pytest.mark.parametrize(("name", "attention"), MODELS)
@pytest.mark.parametrize(
    "kind", ["none", "right", "left", "holes", "all ones", "4-D booleans", "4-D numbers"]
)
def test_the_engine_serves_every_mask_that_libraries_make(kind: str, name: str, attention: str) -> None:
    model = squeezebert_fast.patch(model_of(name, attention), backend="cpu")
    with native_runs() as runs:
        result = outcome(model, inputs_for(name) | {"attention_mask": masks()[kind]})
    assert isinstance(result, type) or runs == ["float32"]
    assert not isinstance(result, type) or kind.startswith("4-D")


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_a_mask_is_not_read_with_another_sign(name: str, attention: str) -> None:
    """What a mask leaves out has no say at all, and what it keeps has."""
    model = squeezebert_fast.patch(model_of(name, attention), backend="cpu")
    ids = inputs_for(name)["input_ids"].clamp(min=2)
    mask = torch.ones_like(ids)
    mask[:, 4:] = 0
    result = outcome(model, {"input_ids": ids, "attention_mask": mask})[:, :4]
    for position, changes in ((5, False), (3, True)):
        others = ids.clone()
        others[:, position] = 60 - others[:, position]
        changed = outcome(model, {"input_ids": others, "attention_mask": mask})[:, :3]
        assert torch.equal(changed, result[:, :3]) is not changes


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize(
    "mask", ["booleans", "4-D booleans", "3-D numbers", "one for all", "float16", "float64", "integers"]
)
def test_the_encoder_alone_with_masks_that_models_never_make(mask: str, name: str, attention: str) -> None:
    generator = torch.Generator().manual_seed(0)
    by_query = torch.rand(3, 4, 7, 7, generator=generator) > 0.4
    masks = {
        "booleans": by_query[:, 0, 0],
        "4-D booleans": by_query,
        "3-D numbers": torch.randn(4, 7, 7, generator=generator),
        "one for all": torch.randn(7, 7, generator=generator),
        "float16": torch.randn(3, 1, 1, 7, generator=generator).half(),
        "float64": torch.randn(3, 1, 1, 7, generator=generator).double(),
        "integers": by_query[:, :1, :1].long(),
    }
    encoder = encoder_of(model_of(name, attention))
    x = torch.randn(3, 7, 24, generator=generator)

    def result() -> Any:
        try:
            with torch.no_grad():
                if IS_TRANSFORMERS_4 and name == "DistilBertModel":
                    return encoder(x, masks[mask], head_mask=[None, None])[0]
                return encoder(x, masks[mask])[0]
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            return type(error)

    expected = result()
    squeezebert_fast.patch(encoder, backend="cpu")
    actual = result()
    if not isinstance(expected, type):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5, equal_nan=True)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "ids alone": {"attention_mask": None, "token_type_ids": None},
    "token types": {"token_type_ids": torch.tensor([[0, 1, 1, 0, 1, 0, 1]]).expand(3, 7)},
    "positions": {"position_ids": torch.tensor([[3, 1, 2, 9, 8, 4, 5]]).expand(3, 7)},
    "one row of positions": {"position_ids": torch.arange(2, 9)[None]},
    "embeddings": {"input_ids": None, "inputs_embeds": torch.randn(3, 7, 24)},
}


@pytest.mark.parametrize(("name", "attention"), MODELS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments(arguments: str, name: str, attention: str) -> None:
    model = model_of(name, attention)
    inputs = {**inputs_for(name), **ARGUMENTS[arguments]}
    if "Electra" in name and inputs.get("inputs_embeds") is not None:
        inputs["inputs_embeds"] = inputs["inputs_embeds"][..., :16]
    if "Distil" in name or inputs.get("token_type_ids", 0) is None:
        inputs.pop("token_type_ids", None)
    if "Roberta" in name or "Camembert" in name:
        inputs.pop("token_type_ids", None)  # of which it has a single one
    same = outcome(model, inputs)
    if isinstance(same, type):
        assert IS_TRANSFORMERS_4
        pytest.skip(f"transformers refuses it: {same.__name__}")
    with native_runs() as runs:
        assert_patch_keeps(model, inputs, backend="cpu")
    assert runs == ["float32"]


@pytest.mark.parametrize("name", ["RobertaModel", "XLMRobertaModel", "CamembertModel"])
def test_positions_count_from_the_padding_index_and_padding_has_none(name: str) -> None:
    model = model_of(name)
    ids = torch.tensor([[5, 6, 1, 7, 1], [1, 1, 8, 9, 10], [1, 1, 1, 1, 1]])
    ids = torch.where(ids == 1, model.config.pad_token_id, ids)
    embeddings = model.embeddings
    expected = embeddings(ids)
    squeezebert_fast.patch(model, backend="cpu")
    close(embeddings(ids), expected)
    with torch.no_grad():
        close(embeddings(ids), expected)
        close(embeddings(ids.int()), expected)


@pytest.mark.parametrize(("name", "attention"), [*MODELS, ("BertForQuestionAnswering", "sdpa")])
@pytest.mark.parametrize("by", ["argument", "configuration"])
@pytest.mark.parametrize(
    "options",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"return_dict": False},
        {"output_hidden_states": True, "return_dict": False},
        {"output_hidden_states": True, "output_attentions": True},
        {"output_hidden_states": True, "output_attentions": True, "return_dict": False},
    ],
    ids=lambda options: " ".join(options),
)
def test_optional_outputs_spoil_no_later_call(
    options: dict[str, bool], by: str, name: str, attention: str
) -> None:
    fields = {}
    if by == "configuration":
        if options.get("output_attentions") and attention == "sdpa":
            pytest.skip("transformers refuses it")
        fields = {key: value for key, value in options.items() if key != "return_dict"}
        fields |= {} if options.get("return_dict", True) else {"return_dict": False}
    model, inputs = model_of(name, attention, **fields), inputs_for(name)
    given = options if by == "argument" else {}
    assert_patch_keeps(model, inputs | given, backend="cpu")
    nothing = dict.fromkeys(options, False) | {"return_dict": True}
    with native_runs() as runs:
        plain = outcome(model, inputs | nothing)
        again = outcome(model, inputs | given)
        assert torch.equal(outcome(model, inputs | nothing), plain)
    close(again, plain)
    served = not options.get("output_attentions") and not (NO_HOOKS and "output_hidden_states" in options)
    assert runs == ["float32"] * (3 if served else 2)


@pytest.mark.skipif(IS_TRANSFORMERS_4 or NO_HOOKS, reason="transformers takes no numbers of hidden states")
@pytest.mark.parametrize("chosen", [1, -1, [0, 2], [-1, -2]])
@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_chosen_hidden_states(chosen: Any, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    assert_patch_keeps(model, inputs | {"output_hidden_states": chosen}, backend="cpu")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=chosen).hidden_states
        plain = squeezebert_fast.unpatch(model)(**inputs, output_hidden_states=chosen).hidden_states
    assert [state is None for state in states] == [state is None for state in plain]


@pytest.mark.skipif(NO_HOOKS, reason="transformers collects hidden states in one thread alone")
@pytest.mark.parametrize(
    ("name", "attention"), [("BertForPreTraining", "sdpa"), ("DistilBertModel", "eager")]
)
def test_threads_get_their_own_results_and_hidden_states(name: str, attention: str) -> None:
    model = model_of(name, attention)
    inputs = [inputs_for(name, seed, batch=1 + seed, tokens=5 + seed) for seed in range(4)]
    wanted = [bool(seed % 2) for seed in range(4)]

    def call(index: int) -> list[Tensor]:
        with torch.no_grad():
            return flat(model(**inputs[index], output_hidden_states=wanted[index]))

    expected = [call(index) for index in range(4)]
    squeezebert_fast.patch(model, backend="cpu")
    faults: list[str] = []

    def work(index: int) -> None:
        try:
            for _ in range(10):
                close(call(index), expected[index])
        except Exception as error:
            faults.append(repr(error))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu", "gelu_10", "quick_gelu", "tanh"])
@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel"])
def test_activations(activation: str, name: str) -> None:
    assert_patch_keeps(model_of(name, hidden_act=activation), inputs_for(name), backend="cpu")


def test_an_activation_that_is_a_function_or_a_module() -> None:
    for activation in (torch.nn.functional.softplus, torch.nn.PReLU()):
        model = model_of("BertModel")
        for layer in encoder_of(model).layer:
            del layer.intermediate.intermediate_act_fn
            layer.intermediate.intermediate_act_fn = activation
        assert_patch_keeps(model, inputs_for("BertModel"), backend="cpu")


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_back(dtype: torch.dtype, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    exact = outcome(copy.deepcopy(model).double(), inputs)
    same = outcome(copy.deepcopy(model).to(dtype), inputs)
    outcome(squeezebert_fast.patch(model), inputs)
    assert_within_rule(outcome(model.to(dtype), inputs), same, exact, whole_model=True)
    rounded = outcome(squeezebert_fast.unpatch(copy.deepcopy(model)).float(), inputs)
    close(outcome(model.float(), inputs), rounded)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_autocast_and_empty_batches(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    exact = outcome(copy.deepcopy(model).double(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = outcome(model, inputs)
        actual = outcome(squeezebert_fast.patch(model), inputs)
    assert actual.dtype == same.dtype
    error, own = ((t.double() - exact).square().mean().sqrt() for t in (actual, same))
    assert error <= 2 * own
    encoder = encoder_of(model)
    x, mask = torch.randn(3, 5, 24), torch.zeros(3, 1, 1, 5)
    options = {"head_mask": [None] * 2} if IS_TRANSFORMERS_4 and "Distil" in name else {}
    assert encoder(x[:0], mask[:0], **options)[0].shape == (0, 5, 24)
    assert encoder(x[:1, :1], mask[:1, ..., :1], **options)[0].shape == (1, 1, 24)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_a_nan_shows_where_it_did(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    with torch.no_grad():
        layer = encoder_of(model).layer[0]
        next(layer.parameters())[5, 0] = float("nan")
    expected = outcome(model, inputs).isnan()
    assert expected.any()
    assert torch.equal(outcome(squeezebert_fast.patch(model, backend="cpu"), inputs).isnan(), expected)


@needs_native
@pytest.mark.skipif(IS_TRANSFORMERS_4, reason="transformers 4 takes no token types here")
def test_token_types_that_distilbert_ignores_do_not_keep_the_engine_away() -> None:
    """BERT's tokenizer, which DistilBERT's checkpoints may come with, makes them."""
    model = squeezebert_fast.patch(model_of("DistilBertModel"), backend="cpu", strict=True)
    inputs = inputs_for("DistilBertModel")
    expected = squeezebert_fast.unpatch(copy.deepcopy(model))(**inputs)
    with native_runs() as runs, torch.no_grad():
        actual = model(**inputs, token_type_ids=torch.zeros_like(inputs["input_ids"]))
    assert len(runs) == 1
    close(actual, expected)
