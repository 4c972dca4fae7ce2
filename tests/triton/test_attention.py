"""Pass A and attention alone: masks, heads, lengths, packed sequences, statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast.backends.masks import zero_where_blind
from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import attend
from squeezebert_fast.triton_kernels.attend import TILES, Tile, tile_for
from squeezebert_fast.triton_kernels.attention import attention, attention_with_statistics
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT
from squeezebert_fast.triton_kernels.launching import Device
from squeezebert_fast.triton_kernels.self_attention import recomputing_pays, self_attention
from tests.helpers import assert_within_rule, to_double
from tests.triton.helpers import DTYPES, Random, hold

TINY = Tile(16, 16, 1, 2, 16)


def masks_for(
    batch: int, heads: int, queries: int, keys: int, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """Every kind of mask: what broadcasts, what has strides, rows without a key."""
    generator = torch.Generator().manual_seed(0)
    lowest = torch.finfo(dtype).min
    padding = torch.zeros(batch, 1, 1, keys)
    padding[0, ..., keys - keys // 3 :] = lowest
    padding[-1] = lowest  # a sequence without a key
    blind = torch.zeros(1, 1, queries, keys)
    blind[..., queries // 2, :] = lowest
    soft = torch.randn(batch, heads, queries, keys, generator=generator)
    masks = {
        "padding": padding,
        "padding first": padding.flip(3),
        "by head and key": torch.randn(1, heads, 1, keys, generator=generator),
        "a query that sees nothing": blind,
        "causal": torch.full((queries, keys), -torch.inf).triu(1),
        "soft": soft,
        "with strides": soft.transpose(0, 1).contiguous().transpose(0, 1).flip(2).mT.contiguous().mT,
        "one row": torch.randn(keys, generator=generator),
        "one number": torch.full((1, 1, 1, 1), -3.0),
        "-10000": padding.clamp(min=-10000.0),
        "row of minus infinity": blind.clamp(min=-1.0) * torch.inf,
    }
    return {name: torch.nan_to_num(m, 0.0, neginf=-torch.inf).to(device, dtype) for name, m in masks.items()}


def widened(mask: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor | None:
    """The mask for a wider reference: the lowest number stays the lowest when a score is added."""
    if mask is None:
        return None
    return torch.where(mask == torch.finfo(mask.dtype).min, torch.finfo(dtype).min, mask.to(dtype))


def hold_attention(actual: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int) -> None:
    """The tolerance rule. In float16 PyTorch's own sum of the lowest number and a score isn't that number."""
    exact = reference.attention(*to_double([q, k, v]), widened(mask), heads)
    same = reference.attention(q, k, v, mask, heads)
    if q.dtype is torch.float16 and mask is not None:
        same = reference.attention(
            q.float(), k.float(), v.float(), widened(mask, torch.float32), heads
        ).half()
    assert_within_rule(actual, same, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", masks_for(2, 2, 17, 21, torch.float32, "cpu"))
def test_every_mask(mask: str, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    q, k, v = random(2, 17, 24), random(2, 21, 24), random(2, 21, 24)
    added = masks_for(2, 2, 17, 21, dtype, device)[mask]
    hold_attention(attention(q, k, v, added, 2, tile=TINY), q, k, v, added, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["padding", "causal", "row of minus infinity", "with strides"])
def test_every_mask_with_projections_inside(mask: str, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    x, weights, biases = arguments_for(random, (2, 19, 24), 2)
    added = masks_for(2, 4, 19, 19, dtype, device)[mask]
    actual = self_attention(x, weights, biases, 2, 4, added, tile=TINY)
    q, k, v = projected(x, weights, biases, 2)
    exact = reference.attention(*projected(*to_double([x, weights, biases]), 2), widened(added), 4)
    wide = torch.float32 if dtype is torch.float16 else dtype
    same = reference.attention(q.to(wide), k.to(wide), v.to(wide), widened(added, wide), 4)
    assert_within_rule(actual, same.to(dtype), exact)


def arguments_for(
    random: Random, shape: tuple[int, ...], groups: int
) -> tuple[Tensor, list[Tensor], list[Any]]:
    channels = shape[-1]
    weights = [random(channels, channels // groups, 1, scale=(groups / channels) ** 0.5) for _ in range(3)]
    return random(*shape), weights, [random(channels) for _ in range(3)]


def projected(x: Tensor, weights: list[Tensor], biases: list[Any], groups: int) -> tuple[Tensor, ...]:
    return tuple(
        reference.grouped_pointwise_conv(x, w, b, groups) for w, b in zip(weights, biases, strict=True)
    )


def definition(
    x: Tensor, weights: list[Tensor], biases: list[Any], groups: int, heads: int, mask: Tensor | None
) -> Tensor:
    return reference.attention(*projected(x, weights, biases, groups), mask, heads)


@pytest.mark.parametrize("head", [1, 8, 16, 20, 33, 64, 96, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_any_size(head: int, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype, head)
    q, k, v = (random(1, 17, 2 * head) for _ in range(3))
    hold(attention(q, k, v, None, 2, tile=TINY), reference.attention, (q, k, v, None, 2))
    x, weights, biases = arguments_for(random, (1, 17, 2 * head), 2)
    arguments = (x, weights, biases, 2, 2, None)
    hold(self_attention(*arguments, tile=TINY), definition, arguments)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 40), (40, 1), (16, 16), (17, 33)])
def test_any_number_of_queries_and_keys(queries: int, keys: int, device: str) -> None:
    random = Random(device, torch.float32)
    q, k, v = random(2, queries, 16), random(2, keys, 16), random(2, keys, 16)
    for tile in (TINY, None):
        hold(attention(q, k, v, None, 2, tile=tile), reference.attention, (q, k, v, None, 2))


@pytest.mark.parametrize("tokens", [0, 1, 16, 17, 33])
@pytest.mark.parametrize("tile", [TINY, None], ids=["projections inside", "table's choice"])
def test_any_number_of_tokens(tokens: int, tile: Tile | None, device: str) -> None:
    arguments = (*arguments_for(Random(device, torch.float32), (2, tokens, 24), 2), 2, 4, None)
    hold(self_attention(*arguments, tile=tile if tokens else None), definition, arguments)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("heads", [1, 3, 4])
def test_every_group_count_lined_up_with_heads_or_not(heads: int, groups: int, device: str) -> None:
    arguments = (*arguments_for(Random(device, torch.float32), (1, 9, 12), groups), groups, heads, None)
    hold(self_attention(*arguments), definition, arguments)


def test_different_groups_and_missing_biases(device: str) -> None:
    random = Random(device, torch.float32)
    x = random(2, 5, 12)
    weights = [random(12, 12 // groups, 1) for groups in (1, 2, 4)]
    biases = [random(12), None, None]
    q, k, v = (
        reference.grouped_pointwise_conv(x, w, b, g)
        for w, b, g in zip(weights, biases, (1, 2, 4), strict=True)
    )
    actual = self_attention(x, weights, biases, (1, 2, 4), 4, None)
    torch.testing.assert_close(actual, reference.attention(q, k, v, None, 4))
    arguments = (x, [weights[1]] * 3, [None] * 3, 2, 4, None)
    hold(self_attention(*arguments, tile=TINY), definition, arguments)


def test_any_strides(device: str) -> None:
    random = Random(device, torch.float32)
    qkv = random(2, 9, 48)
    q, k, v = qkv.split(16, -1)
    hold(attention(q, k, v, None, 2), reference.attention, (q, k, v, None, 2))
    expanded = random(1, 9, 16).expand(2, 9, 16)
    hold(attention(q, expanded, v[:, ::1], None, 2), reference.attention, (q, expanded, v, None, 2))
    _, weights, biases = arguments_for(random, (2, 9, 16), 2)
    for x in (qkv[..., 16:32], random(9, 2, 16).transpose(0, 1)):
        arguments = (x, weights, biases, 2, 2, None)
        hold(self_attention(*arguments, tile=TINY), definition, arguments)


LENGTHS = (5, 0, 1, 19)


def packed(device: str) -> tuple[tuple[Tensor, int], list[slice]]:
    ends = torch.tensor(LENGTHS).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(device, torch.int32)
    return (offsets, max(LENGTHS)), [slice(int(e) - n, int(e)) for e, n in zip(ends, LENGTHS, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile", [TINY, None], ids=["projections inside", "table's choice"])
def test_packed_sequences_are_what_each_is_alone(tile: Tile | None, dtype: torch.dtype, device: str) -> None:
    sequences, parts = packed(device)
    x, weights, biases = arguments_for(Random(device, dtype), (sum(LENGTHS), 24), 2)
    actual = self_attention(x, weights, biases, 2, 4, None, sequences, tile=tile)
    alone = [self_attention(x[part][None], weights, biases, 2, 4, None, tile=tile if n else None)[0]
             for part, n in zip(parts, LENGTHS, strict=True)]  # fmt: skip
    if device == "cpu" and tile:
        assert torch.equal(actual, torch.cat(alone)), "a sequence's bits depend on the others"
    hold(actual, lambda *a: torch.cat([definition(a[0][p][None], *a[1:])[0] for p in parts if p.stop > p.start]),
         (x, weights, biases, 2, 4, None))  # fmt: skip


def test_packed_queries_keys_and_values(device: str) -> None:
    sequences, parts = packed(device)
    random = Random(device, torch.float32)
    q, k, v = (random(sum(LENGTHS), 24) for _ in range(3))
    actual = attention(q, k, v, None, 3, sequences=sequences, tile=TINY)
    for part in parts:
        if part.stop > part.start:
            alone = attention(q[None, part], k[None, part], v[None, part], None, 3, tile=TINY)
            torch.testing.assert_close(actual[part], alone[0])


@pytest.mark.parametrize("mask", ["padding", "soft", "none"])
def test_statistics_are_each_rows_largest_score_and_total(mask: str, device: str) -> None:
    random = Random(device, torch.float32)
    q, k, v = random(2, 19, 24), random(2, 21, 24), random(2, 21, 24)
    added = None if mask == "none" else masks_for(2, 4, 19, 21, torch.float32, device)[mask]
    scores = reference.attention_scores(q, k, added, 4)
    largest = scores.amax(-1)
    totals = (scores - largest[..., None]).exp().sum(-1)
    for tile in (TINY, None):
        context, statistics = attention_with_statistics(q, k, v, added, 4, NO_DROPOUT, tile=tile)
        assert torch.equal(context, attention(q, k, v, added, 4, tile=tile))
        torch.testing.assert_close(statistics, torch.stack([largest, 1 / totals], -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_sees_nothing_sees_everything_equally(dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    q, k, v = (random(1, 33, 16, scale=5.0) for _ in range(3))
    mask = torch.full((1, 1, 1, 33), torch.finfo(dtype).min, dtype=dtype, device=device)
    y = attention(q, k, v, mask, 1, tile=TINY)
    mean = v.double().mean(1, keepdim=True).expand(1, 33, 16)
    torch.testing.assert_close(y.double(), mean, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_not_finite_shows(value: float, which: int, masked: bool, device: str) -> None:
    random = Random(device, torch.float32)
    qkv = [random(2, 19, 8) for _ in range(3)]
    qkv[which][1, 3, 2] = value
    mask = masks_for(2, 2, 19, 19, torch.float32, device)["padding first"] if masked else None
    expected = reference.attention(*qkv, mask, 2)
    actual = attention(*qkv, mask, 2, tile=TINY)
    assert torch.equal(actual.isfinite(), expected.isfinite())


ATTENDS = {
    "by sequence": (2, 1, 1, 1),
    "by query": (1, 1, 19, 1),
    "by sequence and query": (2, 1, 19, 1),
    "by head and query": (2, 19, 1),
    "all": (2, 2, 19, 1),
    "none of them": (1,),
}


def attends_for(kind: str, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    attends = (torch.rand(ATTENDS[kind], generator=generator) < 0.6).to(device)
    attends.view(-1)[0] = False
    # a step of two between any two of them, and True in between
    return torch.stack([attends, torch.ones_like(attends)], -1)[..., 0]


@pytest.mark.parametrize("mask", ["padding", "causal", "row of minus infinity"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_attends_to_nothing_has_a_context_of_zeros(dtype: torch.dtype, mask: str, device: str) -> None:
    """And the others' is bit for bit what it is without: rows of -inf alone stay NaN, unless they are blind."""
    random = Random(device, dtype)
    added = masks_for(2, 2, 19, 19, dtype, device)[mask]
    q, k, v = (random(2, 19, 24) for _ in range(3))
    x, weights, biases = arguments_for(random, (2, 19, 24), 2)
    weights_apart = [*weights[:2], random(24, 24, 1)]
    # of what isn't finite, too, nothing is left where there should be zeros
    v[0, 3] = torch.nan
    q[1, 4] = torch.inf
    runs: list[Any] = [
        lambda **o: attention(q, k, v, added, 2, tile=TINY, **o),
        lambda **o: self_attention(x, weights, biases, 2, 2, added, tile=TINY, **o),
        lambda **o: self_attention(x, weights_apart, biases, (2, 2, 1), 2, added, **o),
    ]
    for run, kinds in zip(runs, ([*ATTENDS], ["by query"], ["by sequence"]), strict=True):
        plain = run()
        for kind in kinds:
            attends = attends_for(kind, device)
            expected = zero_where_blind(plain, attends, 2)
            assert torch.equal(run(attends=attends).nan_to_num(7.0), expected.nan_to_num(7.0)), kind


def test_a_packed_sequence_has_no_query_without_a_key(device: str) -> None:
    x, weights, biases = arguments_for(Random(device, torch.float32), (19, 24), 2)
    sequences = torch.tensor([0, 19], dtype=torch.int32, device=device), 19
    attends = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    with pytest.raises(AssertionError, match="packed"):
        self_attention(x, weights, biases, 2, 4, None, sequences, attends=attends)


def test_a_tile_is_no_larger_than_the_sequences_ask_for(device: str) -> None:
    x = torch.empty(1, dtype=torch.bfloat16, device=device)
    assert tile_for(x, 256, 128, 12, 64) == TILES[0]
    assert tile_for(x, 4096, 32, 12, 64).queries == 32
    assert tile_for(x, 4096, 5, 12, 64) == TILES[-1]
    assert tile_for(x, 1, 128, 12, 64).queries < 128, "twelve programs where smaller tiles make more"


CARDS = {
    "99 KB, as an RTX 4090 has": Device(128, 99 * 1024, 8),
    "99 KB, as an RTX 5090 has": Device(170, 99 * 1024, 12),
    "163 KB, as an A100 has": Device(108, 163 * 1024, 8),
    "227 KB, as an H100 has": Device(132, 227 * 1024, 9),
}
QUERIES = {64: (128, 128, 128, 128), 128: (64, 32, 128, 128)}
"""By the size of heads, of the tile for many sequences on each of CARDS."""


@pytest.mark.parametrize("head", QUERIES)
@pytest.mark.parametrize("card", CARDS)
def test_a_tile_fits_the_cards_shared_memory(card: str, head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "device_of", lambda x: CARDS[card])
    x = torch.empty(1, dtype=torch.bfloat16)
    expected = dict(zip(CARDS, QUERIES[head], strict=True))[card]
    assert tile_for(x, 256, 512, 768 // head, head).queries == expected


def test_projections_are_recomputed_for_two_tiles_of_the_base_model_and_one_of_a_dense_one() -> None:
    tile = TILES[0]
    assert [recomputing_pays(tile, n, 192, 64) for n in (128, 256, 257, 512)] == [True, True, False, False]
    assert [recomputing_pays(tile, n, 768, 64) for n in (128, 129)] == [True, False]
    assert not recomputing_pays(tile, 128, 192, 96), "heads of 96 spill"
