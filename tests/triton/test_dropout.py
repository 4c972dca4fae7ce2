"""Dropout: replayed by seed and offset whatever the tile, kept at the right rate, scaled, and in the right
places.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import attention as attentions
from squeezebert_fast.triton_kernels import feed_forward as blocks
from squeezebert_fast.triton_kernels import post_attention as posts
from squeezebert_fast.triton_kernels.dropout import Dropout
from squeezebert_fast.triton_kernels.embeddings import embeddings
from tests.triton.helpers import Random

SEEDS = [(0, 0), (1, 0), (0, 1), (-1, 0), (1 << 40, 0), (0, 1 << 40), (-(1 << 63), (1 << 63) - 1)]


def row_mask(rows: int, channels: int, drop: Dropout, device: str) -> Tensor:
    """What dropout multiplies each element of [rows, channels] by, read off `add_layer_norm`'s statistics alone.

    A row whose only nonzero element is x has the mean x * factor / channels.
    """
    factors = torch.empty(rows, channels, device=device)
    ones, zeros = torch.ones(channels, device=device), torch.zeros(rows, channels, device=device)
    for channel in range(channels):
        x = F.one_hot(torch.full((rows,), channel, device=device), channels).float()
        _, mean, _ = posts.add_layer_norm(x, zeros, ones, zeros[0], 1.0, drop, keep_statistics=True)
        factors[:, channel] = mean * channels
    return factors


def attention_mask(
    batch: int, heads: int, queries: int, keys: int, drop: Dropout, device: str, **options: object
) -> Tensor:
    """What dropout multiplies each probability by: equal scores, and values that name the keys."""
    q = torch.zeros(batch, queries, heads * keys, device=device)
    k = torch.zeros(batch, keys, heads * keys, device=device)
    v = torch.eye(keys, device=device).repeat(1, heads).expand(batch, keys, heads * keys).contiguous()
    y = attentions.attention(q, k, v, None, heads, drop, **options)
    return y.unflatten(-1, (heads, keys)).transpose(1, 2) * keys


def test_every_seed_and_offset_has_a_mask_of_its_own(device: str) -> None:
    masks = [attention_mask(1, 1, 16, 16, Dropout(0.5, *pair), device) for pair in SEEDS]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            agree = (one == other).float().mean()
            assert 0.3 < agree < 0.7, "two masks of independent halves agree in half of their elements"


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
def test_elements_are_dropped_at_the_rate_and_the_rest_scaled(p: float, device: str) -> None:
    factors = attention_mask(2, 2, 48, 48, Dropout(p, 7), device)
    kept = factors != 0.0
    expected = 1.0 - p
    count = factors.numel()
    assert abs(kept.float().mean() - expected) <= 4.5 * (p * expected / count) ** 0.5
    torch.testing.assert_close(
        factors[kept], torch.full_like(factors[kept], 1.0 / expected if expected else 0.0)
    )


def test_no_row_column_head_or_sequence_repeats_another(device: str) -> None:
    kept = attention_mask(2, 2, 48, 48, Dropout(0.5, 7), device) != 0.0
    for a, b in (
        (kept[:, :, 1:], kept[:, :, :-1]),
        (kept[..., 1:], kept[..., :-1]),
        (kept[:, 0], kept[:, 1]),
        (kept[0], kept[1]),
        (kept, kept.mT),
    ):
        assert abs((a == b).float().mean() - 0.5) < 0.06


def test_attention_replays_its_mask_in_any_tile(device: str) -> None:
    drop = Dropout(0.3, 5, 9)
    first = attention_mask(2, 2, 19, 19, drop, device, tile=attentions.Tile(16, 16, 1, 2))
    again = attention_mask(2, 2, 19, 19, drop, device, tile=attentions.Tile(32, 32, 1, 2))
    torch.testing.assert_close(first, again)


def test_attention_is_the_definition_with_that_mask(device: str) -> None:
    drop, heads, tokens = Dropout(0.3, 5, 9), 2, 19
    random = Random(device, torch.float32)
    x, weights = random(2, tokens, 24), [random(24, 12, 1, scale=0.3) for _ in range(3)]
    factors = attention_mask(2, heads, tokens, tokens, drop, device)
    q, k, v = (reference.grouped_pointwise_conv(x, w, None, 2) for w in weights)
    probabilities = reference.attention_scores(q, k, None, heads).softmax(-1) * factors
    values = v.unflatten(-1, (heads, -1)).transpose(1, 2)
    expected = (probabilities @ values).transpose(1, 2).flatten(2)
    for tile in (attentions.Tile(16, 16, 1, 2), None):
        actual = attentions.self_attention(x, weights, [None] * 3, 2, heads, None, None, drop, tile=tile)
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(attentions.attention(q, k, v, None, heads, drop), expected)


def test_post_attention_and_feed_forward_are_the_definition_with_one_mask(device: str) -> None:
    drop = Dropout(0.25, -3, 1 << 35)
    random = Random(device, torch.float32)
    x, residual, gamma, beta = random(19, 12), random(19, 24), random(24), random(24)
    factors = row_mask(19, 24, drop, device)
    assert ((factors == 0.0) | ((factors - 4.0 / 3.0).abs() < 1e-5)).all()
    assert 0.15 < (factors == 0.0).float().mean() < 0.35
    weight, bias = random(24, 6, 1), random(24)
    product = reference.grouped_pointwise_conv(x, weight, bias, 2) * factors
    expected = reference.add_layer_norm(product, residual, gamma, beta)
    for tile in (posts.Tile(16, 16, 16, 1, 2), None):
        actual = posts.conv_add_layer_norm(x, weight, bias, 2, residual, gamma, beta, 1e-12, drop, tile=tile)
        torch.testing.assert_close(actual, expected)
    into, out = random(48, 12, 1, scale=0.3), random(24, 24, 1, scale=0.3)
    hidden = reference.grouped_mlp(residual, into, None, out, bias, 2, "gelu") * factors
    expected = reference.add_layer_norm(hidden, residual, gamma, beta)
    for block in (blocks.Tile(16, 16, 1, 2), None):
        actual = blocks.feed_forward(
            residual, into, None, out, bias, 2, "gelu", gamma, beta, 1e-12, drop, tile=block
        )
        torch.testing.assert_close(actual, expected)


def test_embeddings_drop_what_is_normalised(device: str) -> None:
    drop = Dropout(0.25, 11)
    random = Random(device, torch.float32)
    ids = torch.arange(19, device=device)
    arguments = (
        random(19, 24),
        random(19, 24),
        random(1, 24),
        ids,
        ids,
        ids * 0,
        random(24),
        random(24),
        1e-12,
    )
    torch.testing.assert_close(
        embeddings(*arguments, drop), embeddings(*arguments) * row_mask(19, 24, drop, device)
    )
