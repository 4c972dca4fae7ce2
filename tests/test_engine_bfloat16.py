"""The native encoder in bfloat16: products of rounded operands, everything else in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from squeezebert_fast.backends import cpu
from tests.engine_emulation import assert_emulated, share_of
from tests.engine_helpers import (
    EDGES,
    LIBRARIES,
    encoder_of,
    heads_of,
    keep_some,
    masks_for,
    native_runs,
    needs_native,
    padding_mask,
    patched,
    random_encoder,
    run,
    states,
)
from tests.helpers import assert_within_rule

pytestmark = needs_native


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(10))
def test_no_worse_than_twice_pytorchs_own_bfloat16(seed: int, library: str) -> None:
    encoder = random_encoder(library, seed)
    x, mask = states(encoder, 4, 21, seed), padding_mask(keep_some(4, 21, "right", seed))
    exact = run(copy.deepcopy(encoder).double(), x.double(), mask.double())
    same = run(copy.deepcopy(encoder).bfloat16(), x.bfloat16(), mask.bfloat16()).float()
    with native_runs() as runs:
        actual = run(patched(encoder, "bfloat16"), x, mask)
    assert runs == ["bfloat16"]
    assert_within_rule(actual, same, exact, whole_model=True)
    assert_within_rule(actual, same, exact)


@pytest.mark.parametrize("seed", range(6))
def test_exactly_the_operands_of_products_are_rounded(seed: int) -> None:
    encoder = random_encoder("ours", seed)
    x, mask = states(encoder, 40, 5, seed), padding_mask(keep_some(40, 5, "right", seed))
    assert_emulated(run(patched(encoder, "bfloat16"), x, mask), encoder, x, mask, "bfloat16")


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("name", EDGES)
def test_every_instruction_set_on_configurations_that_do_not_line_up(name: str, isa: str) -> None:
    encoder = encoder_of(**EDGES[name])
    x, mask = states(encoder, 20, 3), padding_mask(keep_some(20, 3, "holes"))
    with cpu.use_instruction_set(isa):
        actual = run(patched(encoder, "bfloat16"), x, mask)
    assert_emulated(actual, encoder, x, mask, "bfloat16", share_of(name))


@pytest.mark.parametrize("kind", ["none", "a sequence without tokens", "4-D additive", "4-D by query"])
def test_masks(kind: str) -> None:
    encoder = encoder_of()
    x, mask = states(encoder, 30, 6), masks_for(30, 6, heads_of(encoder))[kind]
    assert_emulated(run(patched(encoder, "bfloat16"), x, mask), encoder, x, mask, "bfloat16")


def test_values_halfway_between_two_bfloat16_go_to_the_even_one() -> None:
    encoder: Any = encoder_of(num_hidden_layers=1)
    with torch.no_grad():  # the keys and values alone carry the input, so that rounding is all that differs
        encoder.layers[0].attention.query.weight.zero_()
    x = states(encoder, 40, 4)
    ties = (x.view(torch.int32) & ~0xFFFF | 0x8000).view(torch.float32)  # halfway between two bfloat16
    assert_emulated(run(patched(encoder, "bfloat16"), ties), encoder, ties, None, "bfloat16")
