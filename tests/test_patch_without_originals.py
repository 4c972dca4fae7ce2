"""`patch(..., keep_original=False)`: deployment on packed weights alone."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.patching.engines import CpuEngine
from squeezebert_fast.patching.plan import engine_of
from tests.model_pairs import CLASSES, inputs_for, pair, tiny_config

CONFIG = tiny_config(hidden_size=96, intermediate_size=192, vocab_size=83)
PRECISIONS = ("float32", "bfloat16", "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSES)
def test_results_have_the_same_bits_as_with_the_originals(name: str, precision: str) -> None:
    inputs = inputs_for(name, CONFIG)
    for model in pair(name, CONFIG):
        with torch.inference_mode():
            expected = squeezebert_fast.patch(model, precision=precision)(**inputs)
            actual = squeezebert_fast.patch(model, precision=precision, keep_original=False)(**inputs)
        for a, e in zip(actual.to_tuple(), expected.to_tuple(), strict=True):
            assert torch.equal(a, e)


def test_the_originals_memory_is_free() -> None:
    model, _ = pair("SqueezeBertForMaskedLM", CONFIG)
    weights = [weakref.ref(p) for p in model.transformer.encoder.parameters()]
    weights.append(weakref.ref(model.cls.predictions.decoder.weight))
    names = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    squeezebert_fast.patch(model, precision="int8", keep_original=False)
    gc.collect()
    assert all(reference() is None for reference in weights)
    assert {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)} == names
    words = model.transformer.embeddings.word_embeddings.weight
    assert words.is_meta
    assert words is model.cls.predictions.decoder.weight  # still tied


def test_base_size_int8_weights_are_a_quarter() -> None:
    model = squeezebert_fast.SqueezeBertModel(squeezebert_fast.SqueezeBertConfig())
    float32 = sum(p.nbytes for p in model.parameters())
    before = cpu.packed_bytes()
    squeezebert_fast.patch(model.eval(), precision="int8", keep_original=False)
    engine = engine_of(model.encoder)
    assert isinstance(engine, CpuEngine)
    resident = sum(p.nbytes for p in model.parameters() if not p.is_meta)
    resident += cpu.packed_bytes() - before + engine.native.bytes
    assert resident <= 0.30 * float32


NEEDS_ORIGINALS: dict[str, Callable[[nn.Module, dict[str, Any]], object]] = {
    "unpatch": lambda model, _: squeezebert_fast.unpatch(model),
    "patch": lambda model, _: squeezebert_fast.patch(model),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.dumps(model),
    "output_attentions": lambda model, inputs: model(**inputs, output_attentions=True),
    "dropout": lambda model, inputs: _with_dropout(model)(**inputs),
    "hook": lambda model, inputs: _with_hook(model)(**inputs),
    "autocast": lambda model, inputs: _under_autocast(model, inputs),
    "state_dict": lambda model, _: model.state_dict(),
    "half": lambda model, _: model.half(),
    "double": lambda model, _: model.double(),
    "a write": lambda model, _: model.pooler.dense.weight.zero_(),
    "a write through data": lambda model, _: model.encoder.layers[0].attention.query.weight.data.zero_(),
    "a look-up": lambda model, inputs: model.get_input_embeddings()(inputs["input_ids"]),
    "a copy of a layer": lambda model, _: copy.deepcopy(model.encoder.layers[0]),
    "a layer alone": lambda model, _: model.encoder.layers[0](torch.ones(2, 96, 96), None, False),
    "initialising": lambda model, _: model.apply(_initialised),
    "more words": lambda model, _: model.resize_token_embeddings(100),
}


def _with_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    return model.train()


def _with_hook(model: Any) -> Any:
    model.encoder.layers[0].output.conv1d.register_forward_hook(lambda *_: None)
    return model


def _initialised(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        nn.init.normal_(module.weight)


def _under_autocast(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.autocast("cpu"):
        return model(**inputs)


@pytest.mark.parametrize("need", NEEDS_ORIGINALS)
def test_what_needs_the_originals_says_so(need: str) -> None:
    inputs = inputs_for("SqueezeBertModel", CONFIG)
    for model in pair("SqueezeBertModel", CONFIG):
        squeezebert_fast.patch(model, keep_original=False, precision="int8")
        with torch.inference_mode():
            expected = model(**inputs)[0]
        with torch.no_grad(), pytest.raises(UnsupportedError, match="keep_original=False"):
            NEEDS_ORIGINALS[need](model, inputs)
        if need not in ("dropout", "hook", "half", "double"):  # and nothing is lost
            with torch.inference_mode():
                assert torch.equal(model(**inputs)[0], expected)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_does_not_need_the_originals_works_as_before(precision: str, inference: bool) -> None:
    inputs = inputs_for("SqueezeBertModel", CONFIG)
    for model in pair("SqueezeBertModel", CONFIG):
        squeezebert_fast.patch(model, keep_original=False, precision=precision)
        with torch.inference_mode(inference), torch.no_grad():
            expected = model(**inputs)[0]
            assert model.device == next(model.parameters()).device == torch.device("cpu")
            model.to("cpu").cpu().float().to(torch.float32).eval().share_memory()
            on_its_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            assert torch.equal(model(**on_its_device)[0], expected)
            assert torch.equal(nn.DataParallel(model)(**inputs)[0], expected)


def test_loading_other_values_fails_loudly() -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    state = model.state_dict()
    squeezebert_fast.patch(model, keep_original=False)
    with pytest.raises(RuntimeError, match=r"encoder\.layers\.0.*keep_original=False"):
        # torch gathers all into one
        model.load_state_dict(state)


def test_a_weight_that_was_given_up_prints_its_shape() -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    squeezebert_fast.patch(model, keep_original=False)
    assert repr(model.pooler.dense.weight) == "GivenUp([96, 96], torch.float32)"


def test_a_model_that_no_kernel_serves_keeps_its_weights() -> None:
    config = tiny_config(hidden_act="mish")
    for model in pair("SqueezeBertModel", config):
        classes = [type(module) for module in model.modules()]
        with pytest.raises(UnsupportedError, match="activation"):
            squeezebert_fast.patch(model, keep_original=False)
        assert [type(module) for module in model.modules()] == classes
        assert not any(p.is_meta for p in model.parameters())


def test_a_bad_value_changes_nothing() -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    with pytest.raises(ArgumentError, match="keep_original"):
        squeezebert_fast.patch(model, keep_original="no")  # type: ignore[arg-type]


def test_explain_says_that_the_originals_were_given_up() -> None:
    model, _ = pair("SqueezeBertModel", CONFIG)
    squeezebert_fast.patch(model, precision="int8", keep_original=False)
    rows = squeezebert_fast.explain(model).rows
    assert {(row.backend, row.precision) for row in rows} == {("cpu", "int8")}
    assert all("given up" in row.reason for row in rows)
