"""The native encoder in float32: every configuration, mask and instruction set, by the tolerance rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from squeezebert_fast.backends import cpu
from tests.engine_helpers import (
    EDGES,
    LIBRARIES,
    LOWEST,
    channels_of,
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

SHAPES = [(3, 7), (1, 1), (2, 33), (5, 1), (1, 49), (4, 16)]


def assert_kept(encoder: nn.Module, x: Tensor, mask: Tensor | None, **options: Any) -> None:
    """The native encoder runs, and every hidden state is within the rule of the unpatched encoder's."""
    wanted = {"output_hidden_states": True, "return_dict": False}
    double = mask.double() if mask is not None and mask.is_floating_point() else mask
    with torch.no_grad():
        exact = copy.deepcopy(encoder).double()(x.double(), double, **wanted)
        same = encoder(x, mask, **wanted)
        with native_runs() as runs:
            actual = patched(encoder, **options)(x, mask, **wanted)
    assert runs == ["float32"]
    assert_within_rule(actual[0], same[0], exact[0], "last", whole_model=True)
    assert len(actual[1]) == len(same[1])
    assert actual[1][0] is x
    for i, (a, s, e) in enumerate(zip(actual[1], same[1], exact[1], strict=True)):
        assert_within_rule(a, s, e, f"hidden state {i}", whole_model=True)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(30))
def test_random_configurations(seed: int, library: str) -> None:
    encoder = random_encoder(library, seed)
    batch, tokens = SHAPES[seed % len(SHAPES)]
    kind = ("right", "left", "holes")[seed % 3]
    mask = padding_mask(keep_some(batch, tokens, kind, seed))
    assert_kept(encoder, states(encoder, batch, tokens, seed), mask)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", EDGES)
def test_configurations_that_do_not_line_up(name: str, library: str) -> None:
    encoder = encoder_of(library, **EDGES[name])
    assert_kept(encoder, states(encoder, 2, 19), padding_mask(keep_some(2, 19, "right")))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("mask", masks_for(1, 1, 1))
@pytest.mark.parametrize("shape", [(3, 7), (2, 50), (3, 1)])
def test_masks(shape: tuple[int, int], mask: str, library: str) -> None:
    encoder = encoder_of(library)
    assert_kept(encoder, states(encoder, *shape), masks_for(*shape, heads_of(encoder))[mask])


@pytest.mark.parametrize("mask", ["none", "right", "4-D additive", "4-D by query"])
def test_more_keys_than_one_block_of_scores_holds(mask: str) -> None:
    encoder = encoder_of(num_hidden_layers=1)
    assert_kept(encoder, states(encoder, 2, 1200), masks_for(2, 1200, heads_of(encoder))[mask])


def test_a_later_block_of_scores_that_is_much_larger_or_masked() -> None:
    encoder = encoder_of(num_hidden_layers=1)
    x = states(encoder, 1, 1100)
    ramp = torch.linspace(-80, 80, 1100)[None, None, None]
    for mask in (
        ramp,
        ramp.flip(3),
        torch.where(ramp < 0, -torch.inf, 0.5),
        torch.where(ramp < 0, 0.5, LOWEST),
    ):
        assert_kept(encoder, x, mask)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("seed", range(6))
def test_every_instruction_set(seed: int, isa: str) -> None:
    encoder = random_encoder("ours", seed)
    with cpu.use_instruction_set(isa):
        for mask in masks_for(2, 37, heads_of(encoder), seed).values():
            assert_kept(encoder, states(encoder, 2, 37, seed), mask)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("name", EDGES)
def test_every_instruction_set_on_configurations_that_do_not_line_up(name: str, isa: str) -> None:
    encoder = encoder_of(**EDGES[name])
    with cpu.use_instruction_set(isa):
        assert_kept(encoder, states(encoder, 2, 9), padding_mask(keep_some(2, 9, "holes")))


@pytest.mark.parametrize("library", LIBRARIES)
def test_hidden_states_that_are_not_contiguous(library: str) -> None:
    encoder = encoder_of(library)
    channels = channels_of(encoder)
    mask = padding_mask(keep_some(3, 7, "right"))
    wide = torch.randn(7, 6, 2 * channels, generator=torch.Generator().manual_seed(0))
    views = {
        "tokens first": wide[:, :3, :channels].transpose(0, 1),
        "every other channel": wide[:, ::2, ::2].transpose(0, 1),
        "channels first": wide.permute(1, 2, 0)[:3, :channels].contiguous().mT,
        "one row for all": wide[:1, :1, :channels].expand(3, 7, channels),
        "an offset": wide[:, 1:4, 5 : 5 + channels].transpose(0, 1),
    }
    for x in views.values():
        assert x.shape == (3, 7, channels)
        assert_kept(encoder, x, mask)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_empty_batch_and_sequences_without_tokens(library: str) -> None:
    encoder = patched(encoder_of(library))
    channels = channels_of(encoder)
    for batch, tokens in ((0, 5), (3, 0), (0, 0)):
        for mask in (None, torch.zeros(batch, 1, 1, tokens)):
            if mask is None and library == "theirs":
                continue
            result = run(encoder, torch.empty(batch, tokens, channels), mask)
            assert result.shape == (batch, tokens, channels)
            assert result.dtype is torch.float32


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("return_dict", [False, True])
def test_outputs_have_the_types_and_memory_they_had(
    return_dict: bool, with_states: bool, library: str
) -> None:
    encoder = encoder_of(library)
    x, mask = states(encoder, 2, 5), torch.zeros(2, 1, 1, 5)
    options = {"output_hidden_states": with_states, "return_dict": return_dict}
    with torch.no_grad():
        expected, actual = encoder(x, mask, **options), patched(encoder)(x, mask, **options)
    assert type(actual) is type(expected)
    assert len(actual) == len(expected)
    last = actual.last_hidden_state if return_dict else actual[0]
    assert last.is_contiguous()
    assert not last.requires_grad
    if with_states:
        hidden = actual.hidden_states if return_dict else actual[1]
        assert len(hidden) == 3
        assert hidden[0] is x
        assert torch.equal(hidden[-1], last)
        assert len({h.data_ptr() for h in hidden}) == 3


def test_the_input_is_only_read() -> None:
    encoder = patched(encoder_of())
    x, mask = states(encoder, 3, 7), padding_mask(keep_some(3, 7, "holes"))
    before = x.clone(), mask.clone()
    first = run(encoder, x, mask)
    kept = first.clone()
    assert not torch.equal(run(encoder, 2 * x, mask), first)
    assert torch.equal(first, kept)  # a later forward has memory of its own
    assert torch.equal(run(encoder, x, mask), first)
    assert torch.equal(x, before[0])
    assert torch.equal(mask, before[1])
