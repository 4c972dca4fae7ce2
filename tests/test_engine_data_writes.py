"""Writes through `.data`, of which PyTorch's version counter knows nothing, into a model that has been packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import squeezebert_fast
from squeezebert_fast.backends import cpu, quantized
from tests.engine_helpers import LIBRARIES, PRECISIONS, needs_native
from tests.model_pairs import pair, tiny_config

pytestmark = needs_native

# Large enough that a short call compares a part of it alone, with groups of several pieces.
LARGE = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 1003,
    "max_position_embeddings": 64,
}
# A place that no sample is taken from, in each kind of parameter.
PARAMETERS = {
    "query": ("encoder.layers.0.attention.query.weight", (5, 3, 0)),
    "output": ("encoder.layers.1.output.conv1d.weight", (7, 2, 0)),
    "a bias": ("encoder.layers.0.intermediate.conv1d.bias", (11,)),
    "a norm": ("encoder.layers.1.output.layernorm.weight", (2,)),
    "the pooler": ("pooler.dense.weight", (9, 4)),
}


def model_of(library: str, name: str = "SqueezeBertModel", **fields: Any) -> Any:
    ours, theirs = pair(name, tiny_config(**{**LARGE, **fields}))
    return ours if library == "ours" else theirs


def outputs(model: Any, ids: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return list(model(input_ids=ids).to_tuple())


def fresh(model: Any, ids: Tensor, precision: str) -> list[Tensor]:
    """What the model as it is now gives, packed anew."""
    return outputs(squeezebert_fast.patch(model, backend="cpu", precision=precision), ids)


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("where", PARAMETERS)
def test_one_element_shows_by_the_time_that_all_have_been_compared(
    where: str, precision: str, library: str
) -> None:
    model = squeezebert_fast.patch(model_of(library), backend="cpu", precision=precision)
    ids = torch.arange(64)[None].repeat(8, 1)
    before = outputs(model, ids)
    name, place = PARAMETERS[where]
    model.get_parameter(name).data[place] += 3.0
    for _ in range(0, cpu.ROWS_FOR_ALL, ids.numel()):
        last = outputs(model, ids)
    assert not equal(last, before)
    assert equal(last, fresh(model, ids, precision))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_words_row_shows_in_the_next_call_that_has_the_word(precision: str, library: str) -> None:
    model = squeezebert_fast.patch(model_of(library), backend="cpu", precision=precision)
    ids = torch.tensor([[5, 900, 7]])
    before = outputs(model, ids)
    model.get_input_embeddings().weight.data[900] = 0.1
    after = outputs(model, ids)
    assert not equal(after, before)
    assert equal(after, fresh(model, ids, precision))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("channels", [24, 96, 288])
def test_a_decoder_that_is_tied_to_the_words_sees_it_too(channels: int, precision: str, library: str) -> None:
    model = model_of(library, "SqueezeBertForMaskedLM", hidden_size=channels)
    squeezebert_fast.patch(model, backend="cpu", precision=precision)
    ids = torch.tensor([[5, 901, 7]])
    outputs(model, ids)
    model.get_input_embeddings().weight.data[901, channels // 3] += 2.0
    after = outputs(model, ids)
    assert equal(after, fresh(model, ids, precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_call_that_nothing_precedes_packs_no_table_again(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = squeezebert_fast.patch(
        model_of("ours", "SqueezeBertForMaskedLM"), backend="cpu", precision=precision
    )
    ids = torch.arange(60).reshape(2, 30)
    first = outputs(model, ids)
    packed: list[tuple[int, ...]] = []
    own = cpu._pack
    monkeypatch.setattr(cpu, "_pack", lambda *args: packed.append(args[0].shape) or own(*args))
    for _ in range(3):
        assert equal(outputs(model, ids), first)
    assert packed == []


@pytest.mark.parametrize("build", cpu.instruction_sets())
@pytest.mark.parametrize("channels", [1, 23, 64, 768])
def test_int8_words_read_in_place_have_the_bits_of_an_int8_table(channels: int, build: str) -> None:
    torch.manual_seed(channels)
    table, other = torch.randn(40, channels), torch.randn(3, channels)
    table[3], table[4], table[5], table[6] = 0.0, 1e-38, 3e38, -0.0
    table[7, -1], table[8, 0], table[9, -1] = torch.nan, torch.inf, -torch.inf
    table[10] = 0.5 / 127 * torch.arange(channels)  # ties
    ids: list[Any] = [torch.arange(40)[None], None, None]
    norm = torch.rand(channels), torch.randn(channels), 1e-12
    positions = torch.randn(40, channels)
    with cpu.use_instruction_set(build):
        in_place = cpu.embeddings([table, positions, other], ids, norm, rounded=True)
        stored = cpu.embeddings([quantized.quantize(table), positions, other], ids, norm)
    torch.testing.assert_close(in_place, stored, rtol=0, atol=0, equal_nan=True)
    assert in_place is not None
    assert in_place[0, 7:10].isnan().all()
