"""`attention`, `add_layer_norm` and `grouped_mlp` against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast import ArgumentError, ops
from tests.helpers import assert_within_rule, check

LOWEST = torch.finfo(torch.float32).min


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    """Attention as the paper writes it, head by head and query by query."""
    size = q.shape[-1] // num_heads
    full = torch.zeros((), dtype=q.dtype) if mask is None else mask
    full = full.expand(q.shape[0], num_heads, q.shape[1], k.shape[1])
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = torch.einsum("bqc,bkc->bqk", q[..., part], k[..., part]) / math.sqrt(size) + full[:, head]
        heads.append(torch.einsum("bqk,bkc->bqc", scores.softmax(-1), v[..., part]))
    return torch.cat(heads, -1)


MASKS = {
    "none": None,
    "padding": torch.tensor([[0.0, 0.0, 0.0, LOWEST, LOWEST], [0.0] * 5])[:, None, None],
    "per head and query": torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)),
    "one row for all": torch.tensor([0.0, -1.0, 2.0, LOWEST, 0.0]),
    "queries and keys": torch.zeros(4, 5).masked_fill(torch.ones(4, 5).triu(1).bool(), -float("inf")),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_its_definition(mask: str, gradient: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 21, generator=generator) for n in (4, 5, 5))
    q.requires_grad_(gradient)
    check(ops.attention, by_hand, q, k, v, MASKS[mask], 3)
    check(ops.attention, by_hand, q.mT.contiguous().mT, k[:, :1].expand(2, 5, 21), v, MASKS[mask], 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_row_that_attends_to_nothing_attends_to_everything_equally(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 2, 40, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.zeros(2, 1, 1, 40, dtype=dtype)
    mask[1] = torch.finfo(dtype).min
    y = ops.attention(q, k, v, mask, 3)
    assert y.isfinite().all()
    mean = v[1].double().mean(0).expand(40, 12)
    torch.testing.assert_close(y[1].double(), mean, rtol=0, atol=8 * torch.finfo(dtype).eps)
    plain = ops.attention(q[:1], k[:1], v[:1], None, 3)
    torch.testing.assert_close(y[:1], plain, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_a_row_masked_by_minus_infinity_has_no_value_as_in_pytorch() -> None:
    q = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 3, 3)
    mask[..., 1, :] = -float("inf")
    y = ops.attention(q, q, q, mask, 2)
    assert y[0, 1].isnan().all()
    assert y[0, [0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_query_that_is_said_to_attend_to_nothing_has_a_context_of_zeros(backend: str) -> None:
    q = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    q[1] = torch.nan
    mask = torch.zeros(3, 3)
    mask[1] = -float("inf")
    attends = torch.tensor([[True, False, True], [False, False, False]])[:, None, :, None]
    y = ops.attention(q, q, q, mask, 2, attends=attends, backend=backend)
    assert torch.equal(y[0, [0, 2]], ops.attention(q, q, q, mask, 2, backend=backend)[0, [0, 2]])
    assert not y[0, 1].any()
    assert not y[1].any()


def test_a_masked_key_has_no_influence() -> None:
    q, k, v = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([0.0, 0.0, 0.0, 0.0, LOWEST, LOWEST])
    expected = ops.attention(q, k[:, :4], v[:, :4], None, 2)
    torch.testing.assert_close(ops.attention(q, k, v, mask, 2), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -3e38])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("tokens", [1, 6, 130])
def test_special_values_spread_as_in_the_definition(tokens: int, which: int, value: float) -> None:
    qkv = torch.randn(3, 1, tokens, 8, generator=torch.Generator().manual_seed(0))
    qkv[which, 0, tokens // 2, 1] = value
    actual, expected = ops.attention(*qkv, None, 2), by_hand(*qkv, None, 2)
    torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8)])
def test_attention_without_sequences_or_tokens(shape: tuple[int, ...]) -> None:
    q = torch.randn(shape)
    assert ops.attention(q, q, q, None, 2).shape == shape


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    q = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    samples = torch.stack([ops.attention(q, q, q, None, 2, 0.25) for _ in range(1500)])
    assert samples.std(0).min() > 0.01
    torch.testing.assert_close(samples.mean(0), ops.attention(q, q, q, None, 2), rtol=0, atol=0.08)
    assert not ops.attention(q, q, q, None, 2, 1.0).any()


@pytest.mark.parametrize("channels", [1, 7, 64])
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5])
def test_add_layer_norm_is_its_definition(channels: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(channels)
    x, residual = torch.randn(2, 3, 5, channels, generator=generator)
    weight, bias = torch.randn(2, channels, generator=generator)

    def reference(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x + residual, x.shape[-1:], weight, bias, eps)

    if channels == 1 and eps == 0.0:  # 0 / 0, as in PyTorch
        assert ops.add_layer_norm(x, residual, weight, bias, eps).isnan().all()
        return
    check(ops.add_layer_norm, reference, x, residual, weight, bias, eps)


def test_a_norm_of_half_precision_rows_takes_float32_parameters() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight, bias = torch.rand(2, 8)
    expected = F.layer_norm(x + x, (8,), weight, bias, 1e-12)
    assert torch.equal(ops.add_layer_norm(x, x, weight, bias), expected)


@pytest.mark.parametrize("backend", ["auto", "reference", "cpu"])
@pytest.mark.parametrize("activation", ["gelu", "relu", None, "mish"])
@pytest.mark.parametrize("biased", [False, True])
def test_grouped_mlp_is_its_definition(backend: str, activation: str | None, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 12, generator=generator)
    weight_in, weight_out = (torch.randn(s, generator=generator) for s in [(30, 4, 1), (15, 10, 1)])
    bias_in, bias_out = (torch.randn(n, generator=generator) if biased else None for n in (30, 15))

    def ours(*args: Tensor | None) -> Tensor:
        return ops.grouped_mlp(*args, 3, activation, backend=backend)  # type: ignore[arg-type]

    actual = ours(x, weight_in, bias_in, weight_out, bias_out)
    args = (x, weight_in, bias_in, weight_out, bias_out)
    same = ops.reference.grouped_mlp(*args, 3, activation)
    exact = ops.reference.grouped_mlp(*(None if a is None else a.double() for a in args), 3, activation)
    assert_within_rule(actual, same, exact)


def test_embeddings_are_their_definition_and_refuse_what_does_not_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    words, positions, types = (torch.randn(n, 12, generator=generator) for n in (9, 7, 2))
    weight, bias = torch.randn(2, 12, generator=generator)
    ids = torch.randint(0, 9, (3, 7), generator=generator)
    at, kinds = torch.arange(7), torch.tensor([[1]])

    def reference(words: Tensor, positions: Tensor, types: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(words[ids] + positions[at] + types[kinds], (12,), weight, bias, 1e-12)

    def ours(*tables: Tensor) -> Tensor:
        return ops.embeddings(ids.int(), at, kinds, *tables)  # type: ignore[arg-type]

    check(ours, reference, words, positions, types, weight, bias)
    with pytest.raises(ArgumentError, match=r"positions is \[7, 11\], expected \[rows, channels\]"):
        ours(words, positions[:, :11], types, weight, bias)
    with pytest.raises(ArgumentError, match="token_types is NoneType"):
        ours(words, positions, None, weight, bias)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="padding_idx is 9, but words has 9 rows"):
        ops.embeddings(ids, at, kinds, words, positions, types, weight, bias, padding_idx=9)
    with pytest.raises(IndexError):
        ours(words[:2], positions, types, weight, bias)
