"""Reduced precisions, `unpad`, bits and packed weights alone, for transformers' families."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.errors import UnsupportedError
from tests.engine_emulation import assert_emulated
from tests.engine_helpers import PRECISIONS, keep_some, native_runs, needs_native, padding_mask
from tests.fake_triton import fake_triton
from tests.family_pairs import (
    CASES,
    CLASSES,
    IS_TRANSFORMERS_4,
    encoder_of,
    flat,
    inputs_for,
    layers_of,
    model_of,
    query_of,
)

pytestmark = needs_native

KINDS = [case for case in CASES if case[0] in ("BertModel", "RobertaModel", "DistilBertModel")]
"""Families whose code differs in more than names, by kind of attention."""
WIDE = {"hidden_size": 96, "intermediate_size": 192, "vocab_size": 83, "initializer_range": 0.1}


def patched(model: Any, precision: str = "float32", **options: Any) -> Any:
    return squeezebert_fast.patch(copy.deepcopy(model), precision=precision, backend="cpu", **options)


def first(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(**inputs)[0]
    return result


def padded(name: str, keep: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Ids whose padding is what the mask says, for positions that count real tokens."""
    ids = torch.randint(2, 61, keep.shape, generator=torch.Generator().manual_seed(seed))
    return {
        "input_ids": torch.where(keep, ids, model_of(name).config.pad_token_id),
        "attention_mask": keep.long(),
    }


def mask_of(keep: Tensor, name: str, attention: str) -> Tensor:
    """What the model hands its encoder for a padding mask."""
    if not IS_TRANSFORMERS_4:
        return keep[:, None, None] if attention == "sdpa" else padding_mask(keep)
    return keep.long() if (name, attention) == ("DistilBertModel", "eager") else padding_mask(keep)


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_products_are_rounded_as_the_scheme_says(precision: str, name: str, attention: str) -> None:
    encoder = encoder_of(model_of(name, attention, hidden_act="relu"))
    keep = keep_some(16, 9, "holes")
    x = torch.randn(16, 9, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), native_runs() as runs:
        actual = patched(encoder, precision)(x, mask_of(keep, name, attention))[0]
    assert runs == [precision]
    assert_emulated(actual, encoder, x, padding_mask(keep), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSES)
def test_every_head_points_where_it_pointed(precision: str, name: str) -> None:
    model, inputs = model_of(name, **WIDE), inputs_for(name)
    with torch.no_grad(), native_runs() as runs:
        expected, actual = model(**inputs), patched(model, precision, strict=True)(**inputs)
    assert runs == [precision]
    for a, e in zip(flat(actual), flat(expected), strict=True):
        cosine = torch.cosine_similarity(a.flatten().double(), e.flatten().double(), dim=0)
        assert cosine > {"float32": 1 - 1e-6, "bfloat16": 0.999, "int8": 0.99}[precision]
        assert a.dtype == e.dtype


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("kind", ["right", "left", "holes"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_unpad_has_the_bits_of_sequences_without_padding(
    precision: str, kind: str, name: str, attention: str
) -> None:
    model = model_of(name, attention)
    keep = keep_some(5, 11, kind)
    inputs = padded(name, keep) | {"position_ids": torch.arange(2, 13)[None].expand(5, -1)}
    if IS_TRANSFORMERS_4 and "Distil" in name:
        del inputs["position_ids"]
    with torch.no_grad(), native_runs() as runs:
        actual = patched(model, precision, unpad=True)(**inputs, output_hidden_states=True)
        plain = patched(model, precision)(**inputs, output_hidden_states=True)
    assert len(runs) == 2
    for a, p in zip(actual.hidden_states[1:], plain.hidden_states[1:], strict=True):
        assert torch.equal(a[keep], p[keep])
        assert a[~keep].eq(0).all()
    assert torch.equal(actual.hidden_states[0], plain.hidden_states[0])
    if "position_ids" in inputs or kind == "right":
        alone = patched(model, precision)
        for row, kept in enumerate(keep):
            one = {key: value[row : row + 1, kept] for key, value in inputs.items()}
            assert torch.equal(first(alone, one)[0], actual[0][row, kept])


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sequences_without_tokens_are_zero_unpadded(precision: str, name: str, attention: str) -> None:
    model = model_of(name, attention)
    keep = keep_some(4, 5, "right")
    for none in ([1], [0, 3], [0, 1, 2, 3]):
        some = keep.clone()
        some[none] = False
        inputs = padded(name, some)
        with native_runs() as runs:
            actual = first(patched(model, precision, unpad=True), inputs)
        assert actual[none].eq(0).all()
        assert len(runs) == 1
        expected = first(patched(model, precision), inputs)
        if none == [0, 1, 2, 3] or precision != "float32":
            continue
        # Padded they run one operation after the other where attention gives such sequences no weights.
        bound = 1e-5 if cpu.products_by_parts("float32_highest") else 0.0
        torch.testing.assert_close(actual[some], expected[some], rtol=bound, atol=bound)


@pytest.mark.skipif(IS_TRANSFORMERS_4, reason="transformers 4 refuses masks of four axes")
@pytest.mark.parametrize("name", [name for name, attention in KINDS if attention == "sdpa"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_minus_infinity_in_whole_rows_unpadded(
    backend: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence that is all padding is left out; one query that attends to nothing has a context of zeros."""
    model = model_of(name, "sdpa")
    inputs = inputs_for(name)
    batch, tokens = inputs["input_ids"].shape
    if backend == "triton":
        for module in ("backends.masks", "patching.families.family"):  # as on a GPU
            monkeypatch.setattr(f"squeezebert_fast.{module}.is_readable", lambda _: False)
    fast = squeezebert_fast.patch(copy.deepcopy(model), backend=backend, unpad=True)
    padding = torch.zeros(batch, 1, 1, tokens)
    padding[1] = -torch.inf
    one_query = torch.zeros(batch, 1, tokens, tokens)
    one_query[0, 0, 1] = -torch.inf
    expected = first(model, inputs | {"attention_mask": one_query})
    with fake_triton():
        assert first(fast, inputs | {"attention_mask": padding})[1].eq(0).all()
        actual = first(fast, inputs | {"attention_mask": one_query})
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_depend_on_neither_batch_nor_padding(precision: str, name: str, attention: str) -> None:
    model = patched(model_of(name, attention), precision)
    keep = keep_some(6, 11, "right")
    inputs = padded(name, keep)
    together = first(model, inputs)
    for row, kept in enumerate(keep):
        alone = {key: value[row : row + 1, : int(kept.sum())] for key, value in inputs.items()}
        assert torch.equal(first(model, alone)[0], together[row, kept])
        del alone["attention_mask"]
        assert torch.equal(first(model, alone)[0], together[row, kept])


def with_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1e-9
    return model.train()


FALLBACKS: dict[str, Callable[[Any], Any]] = {
    "hook": lambda model: layers_of(model)[1].register_forward_hook(lambda *_: None) and model,
    "dropout": with_dropout,
    "double": lambda model: model.double(),
    "attentions": lambda model: model,
}


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_fallback_zeroes_padding_too(fallback: str, name: str, attention: str) -> None:
    model = FALLBACKS[fallback](model_of(name, attention, hidden_dropout_prob=0.0))
    keep = keep_some(4, 7, "holes")
    keep[2] = False
    inputs = padded(name, keep) | {
        "output_hidden_states": True,
        "output_attentions": fallback == "attentions",
    }
    with torch.no_grad(), native_runs() as runs:
        expected = model(**inputs)
        actual = patched(model, unpad=True)(**inputs)
    assert runs == []
    for a, e in zip(actual.hidden_states[1:], expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(a[keep], e[keep], rtol=2e-5, atol=2e-5)
        assert a[~keep].eq(0).all()
    assert actual[0][~keep].eq(0).all()


# keep_original=False


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSES)
def test_packed_weights_alone_have_the_same_bits(name: str, precision: str) -> None:
    inputs = inputs_for(name)
    model = model_of(name, **WIDE)
    names = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    with torch.inference_mode():
        expected = squeezebert_fast.patch(model, precision=precision, backend="cpu")(**inputs)
        actual = squeezebert_fast.patch(model, precision=precision, backend="cpu", keep_original=False)(
            **inputs
        )
    for a, e in zip(flat(actual), flat(expected), strict=True):
        assert torch.equal(a, e)
    assert {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)} == names
    assert query_of(layers_of(model)[0]).weight.is_meta
    assert {row.reason.rpartition(", ")[2] for row in squeezebert_fast.explain(model).rows} == {
        "originals given up"
    }


NEEDS_ORIGINALS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "unpatch": lambda model, _: squeezebert_fast.unpatch(model),
    "patch": lambda model, _: squeezebert_fast.patch(model),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.dumps(model),
    "output_attentions": lambda model, inputs: model(**inputs, output_attentions=True),
    "dropout": lambda model, inputs: with_dropout(model)(**inputs),
    "hook": lambda model, inputs: FALLBACKS["hook"](model)(**inputs),
    "state_dict": lambda model, _: model.state_dict(),
    "double": lambda model, _: model.double(),
    "a write": lambda model, _: query_of(layers_of(model)[0]).weight.data.zero_(),
}


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("need", NEEDS_ORIGINALS)
def test_what_needs_the_originals_says_so(need: str, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention, **WIDE), inputs_for(name)
    squeezebert_fast.patch(model, precision="int8", backend="cpu", keep_original=False)
    expected = first(model, inputs)
    with pytest.raises(UnsupportedError), torch.no_grad():
        NEEDS_ORIGINALS[need](model, inputs)
    if need not in ("hook", "dropout", "double"):
        assert torch.equal(first(model, inputs), expected)


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel"])
def test_embeddings_given_up_still_take_embeddings_and_positions(name: str) -> None:
    model = model_of(name, **WIDE)
    inputs = inputs_for(name)
    embeds = {key: value for key, value in inputs.items() if key != "input_ids"}
    embeds["inputs_embeds"] = torch.randn(3, 7, 96, generator=torch.Generator().manual_seed(0))
    expected = first(squeezebert_fast.patch(model, precision="int8", backend="cpu"), embeds)
    squeezebert_fast.patch(model, precision="int8", backend="cpu", keep_original=False)
    assert model.embeddings.word_embeddings.weight.is_meta
    assert torch.equal(first(model, embeds), expected)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_instruction_set(precision: str, isa: str) -> None:
    model, inputs = model_of("BertModel", **WIDE), inputs_for("BertModel")
    with cpu.use_instruction_set(isa):
        actual = first(patched(model, precision), inputs)
    assert torch.cosine_similarity(actual, first(model, inputs), dim=-1).mean() > 0.99
