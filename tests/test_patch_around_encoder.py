"""What `patch` accelerates around the encoder: embeddings, pooler, heads."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu, quantized
from squeezebert_fast.patching.embeddings import AcceleratedEmbeddings
from squeezebert_fast.patching.linear import AcceleratedLinear
from tests.helpers import assert_within_rule
from tests.model_pairs import CLASSES, inputs_for, pair, tiny_config

CONFIG = tiny_config(hidden_size=72, vocab_size=97, type_vocab_size=3)


def embeddings_of(model: Any) -> Any:
    return getattr(model, "transformer", model).embeddings


@pytest.mark.parametrize("build", cpu.instruction_sets())
@pytest.mark.parametrize("hidden_size", [24, 72, 100])
def test_embeddings_keep_the_rule(build: str, hidden_size: int) -> None:
    config = tiny_config(hidden_size=hidden_size, type_vocab_size=3)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, config.vocab_size, (3, 11), generator=generator)
    types = torch.randint(0, 3, (3, 11), generator=generator)
    positions = torch.randint(0, config.max_position_embeddings, (1, 11), generator=generator)
    for model in pair("SqueezeBertModel", config):
        calls: list[dict[str, Tensor]] = [
            {"input_ids": ids},
            {"input_ids": ids.int(), "token_type_ids": types},
            {"input_ids": ids.t().contiguous().t(), "token_type_ids": types[:1], "position_ids": positions},
            {"input_ids": ids[:0]},
        ]
        for call in calls:
            with torch.inference_mode(), cpu.use_instruction_set(build):
                expected = embeddings_of(squeezebert_fast.unpatch(model))(**call)
                exact = embeddings_of(copy.deepcopy(model).double())(**call)
                squeezebert_fast.patch(model, backend="cpu")
                assert isinstance(embeddings_of(model), AcceleratedEmbeddings)
                assert_within_rule(embeddings_of(model)(**call), expected, exact)


@pytest.mark.parametrize("idle", [0, None])
def test_an_idle_argument_of_the_embeddings_changes_nothing(idle: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128, vocab_size=99
    )
    model = squeezebert_fast.patch(transformers.BertModel(config).eval(), precision="int8", strict=True)
    ids = torch.arange(12).reshape(2, 6)
    with torch.inference_mode():
        served = model.embeddings(input_ids=ids)
        assert torch.equal(model.embeddings(input_ids=ids, past_key_values_length=idle), served)
    assert isinstance(model.embeddings, AcceleratedEmbeddings)


def test_int8_embeddings_are_the_quantized_rows() -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    ids = torch.arange(19)[None]
    table = model.embeddings.word_embeddings.weight
    ints, scale = quantized.quantize(table)
    squeezebert_fast.patch(model, precision="int8")
    with torch.inference_mode():
        actual = model.embeddings(ids)
        rows = ints.double() * scale.double()
        total = (
            rows[ids]
            + model.embeddings.position_embeddings.weight.double()
            + model.embeddings(ids).new_zeros(()).double()
        )
        total = total + model.embeddings.token_type_embeddings.weight[0].double()
        norm = model.embeddings.LayerNorm
        exact = nn.functional.layer_norm(
            total, (CONFIG.hidden_size,), norm.weight.double(), norm.bias.double(), norm.eps
        )
        same = nn.functional.layer_norm(
            total.float(), (CONFIG.hidden_size,), norm.weight, norm.bias, norm.eps
        )
    assert_within_rule(actual, same, exact)


@pytest.mark.parametrize("bad", ["input_ids", "token_type_ids", "position_ids"])
def test_an_index_out_of_range_raises_the_models_own_error(bad: str) -> None:
    for model in pair("SqueezeBertModel", CONFIG):
        inputs = {"input_ids": torch.ones(2, 5, dtype=torch.long)}
        inputs[bad] = torch.full((2, 5), 1000)
        errors = []
        for patched in (False, True):
            if patched:
                squeezebert_fast.patch(model)
            with torch.inference_mode(), pytest.raises(Exception) as caught:  # noqa: PT011 (the model's)
                model(**inputs)
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


@pytest.mark.parametrize("name", CLASSES)
def test_heads_keep_the_rule(name: str) -> None:
    inputs = inputs_for(name, CONFIG)
    for model in pair(name, CONFIG):
        with torch.inference_mode():
            expected = model(**inputs).to_tuple()
            exact = copy.deepcopy(model).double()(**inputs).to_tuple()
            patched = squeezebert_fast.patch(model)(**inputs).to_tuple()
        assert any(isinstance(m, AcceleratedLinear) for m in model.modules())
        for ours, theirs, right in zip(patched, expected, exact, strict=True):
            assert_within_rule(ours, theirs, right, whole_model=True)


@pytest.mark.parametrize("name", CLASSES)
def test_gradients_pass_through_every_part(name: str) -> None:
    inputs = inputs_for(name, CONFIG)
    for model in pair(name, CONFIG):
        gradients = []
        for one in (model, squeezebert_fast.patch(copy.deepcopy(model), precision="int8")):
            sum(output.sum() for output in one(**inputs).to_tuple()).backward()
            gradients.append([p.grad for p in one.parameters()])
        for theirs, ours in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_linear_layer_is_batch_invariant() -> None:
    model, _ = pair("SqueezeBertForMaskedLM", CONFIG)
    squeezebert_fast.patch(model)
    x = torch.randn(9, 5, 72)
    with torch.inference_mode():
        whole = model.cls(x)
        assert all(torch.equal(model.cls(x[i : i + 1])[0], whole[i]) for i in range(9))


def test_copies_and_pickles_of_every_part_are_patched_too() -> None:
    model, theirs = pair("SqueezeBertForMaskedLM", CONFIG)
    inputs = inputs_for("SqueezeBertForMaskedLM", CONFIG)
    for one in (model, theirs):
        squeezebert_fast.patch(one, precision="int8")
        with torch.inference_mode():
            expected = one(**inputs)[0]
            for copied in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S301
                assert torch.equal(copied(**inputs)[0], expected)
                assert [type(m) for m in copied.modules()] == [type(m) for m in one.modules()]
        classes = [type(m).__name__ for m in squeezebert_fast.unpatch(one).modules()]
        assert not any(name.startswith("Accelerated") for name in classes)


def test_a_new_weight_is_seen_by_every_part() -> None:
    model, _ = pair("SqueezeBertForMaskedLM", CONFIG)
    inputs = inputs_for("SqueezeBertForMaskedLM", CONFIG)
    for precision in ("float32", "int8"):
        squeezebert_fast.patch(model, precision=precision)
        with torch.inference_mode():
            before = model(**inputs)[0]
        with torch.no_grad():
            model.transformer.embeddings.word_embeddings.weight.mul_(1.5)
        with torch.inference_mode():
            after = model(**inputs)[0]
            fresh = squeezebert_fast.patch(copy.deepcopy(model), precision=precision)(**inputs)[0]
        assert not torch.equal(before, after)
        assert torch.equal(after, fresh)


def test_an_activation_in_place_stays_in_place() -> None:
    model, _ = pair("SqueezeBertForMaskedLM", CONFIG)
    transform = model.cls.predictions.transform
    transform.transform_act_fn = nn.ReLU(inplace=True)
    squeezebert_fast.patch(model)
    x = torch.tensor([-1.0, 2.0])
    with torch.inference_mode():
        assert transform.transform_act_fn(x) is x
    assert x.tolist() == [0.0, 2.0]


def test_a_linear_layer_of_the_callers_own_is_left_alone() -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    whole = nn.ModuleDict({"encoder": model, "mine": nn.Linear(72, 72)})
    squeezebert_fast.patch(whole)
    assert type(whole["mine"]) is nn.Linear
