"""`unpad=True`: tokens that the mask leaves out cost nothing and come out as zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from tests.engine_helpers import (
    LIBRARIES,
    LOWEST,
    PRECISIONS,
    encoder_of,
    heads_of,
    keep_some,
    native_runs,
    needs_native,
    padding_mask,
    patched,
    run,
    states,
)
from tests.model_pairs import pair, tiny_config

pytestmark = needs_native

KINDS = ["right", "left", "holes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_padding_is_zero_and_the_rest_has_the_bits_of_a_padded_run(
    precision: str, library: str, kind: str
) -> None:
    encoder = encoder_of(library)
    x, keep = states(encoder, 6, 13), keep_some(6, 13, kind)
    mask = padding_mask(keep)
    with torch.no_grad(), native_runs() as runs:
        padded = patched(encoder, precision)(x, mask, output_hidden_states=True)
        actual = patched(encoder, precision, unpad=True)(x, mask, output_hidden_states=True)
    assert runs == [precision] * 2
    assert actual.hidden_states[0] is x
    for a, p in zip(actual.hidden_states[1:], padded.hidden_states[1:], strict=True):
        assert torch.equal(a[keep], p[keep])
        assert a[~keep].eq(0).all()
        assert p[~keep].ne(0).any()
    assert torch.equal(actual[0], actual.hidden_states[-1])


def test_padded_rows_are_not_computed() -> None:
    encoder = patched(encoder_of(), unpad=True)
    x, keep = states(encoder, 6, 13), keep_some(6, 13, "holes")
    expected = run(encoder, x, padding_mask(keep))
    x[~keep] = torch.nan
    assert torch.equal(run(encoder, x, padding_mask(keep)), expected)


@pytest.mark.parametrize("lowest", [LOWEST, -torch.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sequences_without_tokens_are_zero(precision: str, lowest: float) -> None:
    encoder = patched(encoder_of(), precision, unpad=True)
    x, keep = states(encoder, 4, 5), keep_some(4, 5, "right")
    for none in ([1], [0, 3], [0, 1, 2, 3]):
        some = keep.clone()
        some[none] = False
        mask = torch.where(some, 0.0, lowest)[:, None, None]
        actual = run(encoder, x, mask)
        assert actual[none].eq(0).all()
        for row in set(range(4)) - set(none):
            assert torch.equal(actual[row, some[row]], run(encoder, x[row : row + 1, some[row]])[0])
        with torch.no_grad():
            hidden = encoder(x, mask, output_hidden_states=True).hidden_states
        assert all(h[none].eq(0).all() for h in hidden[1:])


def hook_on_a_layer(encoder: Any) -> None:
    encoder.layers[1].output.conv1d.register_forward_hook(lambda *_: None)


def dropout(encoder: Any) -> None:
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1e-9  # is on, and drops nothing


def double(encoder: Any) -> None:
    encoder.double()


def gradients(encoder: Any) -> None:
    encoder.requires_grad_(True)


FALLBACKS = {f.__name__: f for f in (hook_on_a_layer, dropout, double, gradients)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_fallback_zeroes_padding_too(fallback: str, library: str, kind: str) -> None:
    encoder: Any = encoder_of(library)
    FALLBACKS[fallback](encoder)
    dtype = next(encoder.parameters()).dtype
    x, keep = states(encoder, 4, 7).to(dtype), keep_some(4, 7, kind)
    keep[2] = False
    mask = torch.zeros(4, 1, 1, 7, dtype=dtype).masked_fill(~keep[:, None, None], torch.finfo(dtype).min)
    with torch.set_grad_enabled(fallback == "gradients"), native_runs() as runs:
        expected = encoder(x, mask, output_hidden_states=True).hidden_states
        actual = patched(encoder, "int8", unpad=True)(x, mask, output_hidden_states=True)
    assert runs == []
    assert actual.hidden_states[0] is x
    assert torch.equal(actual[0], actual.hidden_states[-1])
    for a, e in zip(actual.hidden_states[1:], expected[1:], strict=True):
        assert a[~keep].eq(0).all()
        torch.testing.assert_close(a[keep], e[keep], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_gradients_flow_through_the_tokens_that_stay(library: str) -> None:
    encoder = encoder_of(library)
    x, keep = states(encoder, 4, 7), keep_some(4, 7, "right")
    mask = padding_mask(keep)

    def gradient(encoder: nn.Module, weight: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        (encoder(leaf, mask)[0] * weight[..., None]).square().sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    expected = gradient(encoder, keep.float())
    actual = gradient(patched(encoder, unpad=True), torch.ones_like(keep, dtype=torch.float))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def masks_that_are_no_padding(batch: int, tokens: int, heads: int) -> dict[str, Tensor]:
    keep = padding_mask(keep_some(batch, tokens, "right"))
    by_query = keep.expand(batch, 1, tokens, tokens).clone()
    by_query[:, :, 1, 0] = -1.0
    by_head = keep.expand(batch, heads, 1, tokens).clone()
    by_head[:, 1] = 0.0
    return {
        "by query": by_query,
        "by head": by_head,
        "boolean": keep.expand(batch, 1, tokens, tokens) == 0,
        "soft": keep.clamp(min=-3.0),
        "a large number": keep.clamp(min=-10000.0),
        "not a number": torch.where(keep == 0, 0.0, torch.nan),
    }


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", masks_that_are_no_padding(1, 2, 2))
def test_a_mask_that_is_no_padding_mask_runs_padded(kind: str, library: str, with_gradients: bool) -> None:
    encoder = encoder_of(library)
    x, mask = states(encoder, 4, 7), masks_that_are_no_padding(4, 7, heads_of(encoder))[kind]
    with torch.set_grad_enabled(with_gradients):
        actual = patched(encoder, unpad=True)(x, mask)[0]
        padded = patched(encoder)(x, mask)[0]
        assert torch.equal(actual.nan_to_num(7.0), padded.nan_to_num(7.0))
        torch.testing.assert_close(actual, encoder(x, mask)[0], rtol=2e-5, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_padding_mask_written_out_for_every_query_and_head_is_one(
    library: str, with_gradients: bool
) -> None:
    """transformers 5 writes it out for every query."""
    encoder = patched(encoder_of(library), unpad=True)
    x, keep = states(encoder, 4, 7), keep_some(4, 7, "holes")
    mask = padding_mask(keep)
    with torch.set_grad_enabled(with_gradients):
        expected = encoder(x, mask)[0]
        assert expected[~keep].eq(0).all()
        for heads, queries in ((1, 7), (heads_of(encoder), 1), (heads_of(encoder), 7)):
            wide = mask.expand(4, heads, queries, 7)
            assert torch.equal(encoder(x, wide)[0], expected)
            assert torch.equal(encoder(x, wide.clone())[0], expected)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_whole_model_unpads(precision: str, library: str) -> None:
    ours, theirs = pair("SqueezeBertModel", tiny_config())
    model: Any = ours if library == "ours" else theirs
    ids, keep = torch.arange(36).view(4, 9), keep_some(4, 9, "right")
    with torch.no_grad():
        expected = squeezebert_fast.patch(model, backend="cpu", precision=precision)(ids, keep.long())
        squeezebert_fast.patch(model, backend="cpu", precision=precision, unpad=True)
        actual = model(ids, keep.long())
    assert torch.equal(actual[0][keep], expected[0][keep])
    assert actual[0][~keep].eq(0).all()
    assert torch.equal(actual[1], expected[1])


def test_without_a_mask_nothing_is_left_out() -> None:
    encoder = encoder_of()
    x = states(encoder, 3, 5)
    assert torch.equal(run(patched(encoder, unpad=True), x), run(patched(encoder), x))
