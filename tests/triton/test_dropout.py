"""Dropout: the CPU's mask, whatever the tile, kept at the right rate, scaled, and in the right places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeezebert_fast.backends import cpu, cpu_ops
from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm_with_statistics
from squeezebert_fast.triton_kernels.attend import Tile
from squeezebert_fast.triton_kernels.attention import attention_with_statistics
from squeezebert_fast.triton_kernels.dropout import Dropout
from tests.triton.helpers import Random

SEEDS = [0, 1, 5, 1 << 40, (1 << 63) - 1]


def seeded(p: float, seed: int, device: str) -> Dropout:
    return Dropout(p, torch.tensor(seed, device=device))


def row_mask(rows: int, channels: int, drop: Dropout, device: str) -> Tensor:
    """What dropout multiplies each element of [rows, channels] by: the sum before the norm, of ones and zeros."""
    ones, zeros = torch.ones(rows, channels, device=device), torch.zeros(rows, channels, device=device)
    _, total, _, _ = add_layer_norm_with_statistics(ones, zeros, ones[0], zeros[0], 1.0, drop)
    return total


def attention_mask(
    batch: int, heads: int, queries: int, keys: int, drop: Dropout, device: str, **options: object
) -> Tensor:
    """What dropout multiplies each probability by: equal scores, and values that name the keys."""
    q = torch.zeros(batch, queries, heads * keys, device=device)
    k = torch.zeros(batch, keys, heads * keys, device=device)
    v = torch.eye(keys, device=device).repeat(1, heads).expand(batch, keys, heads * keys).contiguous()
    y, _ = attention_with_statistics(q, k, v, None, heads, drop, **options)
    return y.unflatten(-1, (heads, keys)).transpose(1, 2) * keys


def test_every_seed_has_a_mask_of_its_own(device: str) -> None:
    masks = [attention_mask(1, 1, 16, 16, seeded(0.5, seed, device), device) for seed in SEEDS]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            agree = (one == other).float().mean()
            assert 0.3 < agree < 0.7, "two masks of independent halves agree in half of their elements"


@pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_is_the_cpus(seed: int, device: str) -> None:
    drop, number = seeded(0.3, seed, device), torch.tensor(seed)
    ones, zeros = torch.ones(5, 24), torch.zeros(5, 24)
    _, total, _, _ = cpu_ops.add_layer_norm(ones, zeros, ones[0], zeros[0], 1.0, 0.3, number)
    assert torch.equal(row_mask(5, 24, drop, device).cpu(), total)
    random = Random("cpu", torch.float32)
    q, k, v = random(2, 17, 8), random(2, 19, 8), random(2, 19, 8)
    expected, _ = cpu_ops.attention(q, k, v, None, 2, 0.3, number)
    actual, _ = attention_with_statistics(*(t.to(device) for t in (q, k, v)), None, 2, drop)
    torch.testing.assert_close(actual.cpu(), expected)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
def test_elements_are_dropped_at_the_rate_and_the_rest_scaled(p: float, device: str) -> None:
    factors = attention_mask(2, 2, 48, 48, seeded(p, 7, device), device)
    kept = factors != 0.0
    expected = 1.0 - p
    count = factors.numel()
    assert abs(kept.float().mean() - expected) <= 4.5 * (p * expected / count) ** 0.5
    torch.testing.assert_close(
        factors[kept], torch.full_like(factors[kept], 1.0 / expected if expected else 0.0)
    )


def test_no_row_column_head_or_sequence_repeats_another(device: str) -> None:
    kept = attention_mask(2, 2, 48, 48, seeded(0.5, 7, device), device) != 0.0
    for a, b in (
        (kept[:, :, 1:], kept[:, :, :-1]),
        (kept[..., 1:], kept[..., :-1]),
        (kept[:, 0], kept[:, 1]),
        (kept[0], kept[1]),
        (kept, kept.mT),
    ):
        assert abs((a == b).float().mean() - 0.5) < 0.06


def test_attention_is_the_definition_with_one_mask_in_any_tile(device: str) -> None:
    drop, heads, tokens = seeded(0.3, 5, device), 2, 19
    random = Random(device, torch.float32)
    q, k, v = (random(2, tokens, 24) for _ in range(3))
    factors = attention_mask(2, heads, tokens, tokens, drop, device)
    probabilities = reference.attention_scores(q, k, None, heads).softmax(-1) * factors
    values = v.unflatten(-1, (heads, -1)).transpose(1, 2)
    expected = (probabilities @ values).transpose(1, 2).flatten(2)
    for tile in (Tile(16, 16, 1, 2), Tile(32, 32, 1, 2), None):
        actual, _ = attention_with_statistics(q, k, v, None, heads, drop, tile=tile)
        torch.testing.assert_close(actual, expected)
