"""Mean pooling counts real tokens only, and refuses what it can't pool."""

from __future__ import annotations

import pytest
import torch

import squeezebert_fast
from squeezebert_fast import mean_pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 5, 131])
def test_the_mean_of_the_real_tokens(tokens: int, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    hidden = torch.randn(3, tokens + 2, 7).to(dtype)
    mask = (torch.arange(tokens + 2) < torch.tensor([[tokens], [1], [tokens + 2]])).long()
    pooled = mean_pool(hidden, mask)
    for row, length in enumerate([tokens, 1, tokens + 2]):
        expected = hidden[row, :length].double().mean(0)
        torch.testing.assert_close(pooled[row], expected.to(dtype))


def test_padding_never_counts_whatever_it_holds() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [float("nan"), float("inf")]]])
    assert mean_pool(hidden, torch.tensor([[1, 0]])).tolist() == [[1.0, 2.0]]


def test_a_sequence_without_tokens_is_zero() -> None:
    assert mean_pool(torch.ones(1, 3, 2), torch.zeros(1, 3)).tolist() == [[0.0, 0.0]]


def test_a_mean_of_many_bfloat16_tokens_keeps_its_precision() -> None:
    assert mean_pool(torch.ones(1, 1001, 1, dtype=torch.bfloat16), torch.ones(1, 1001)).item() == 1.0


@pytest.mark.parametrize("tokens", [128, 4096])
def test_a_mean_of_many_tokens_is_as_accurate_as_pytorchs(tokens: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, tokens, 192) + 10
    exact = hidden.double().mean(1)
    ours = (mean_pool(hidden, torch.ones(2, tokens)) - exact).square().mean()
    assert ours <= (hidden.mean(1) - exact).square().mean()


@pytest.mark.parametrize(
    ("hidden", "mask", "culprit"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), "last_hidden_state"),
        (torch.ones(2, 3, 4, dtype=torch.int64), torch.ones(2, 3), "last_hidden_state"),
        (torch.ones(2, 3, 4), torch.ones(2, 4), "attention_mask"),
        (torch.ones(2, 3, 4), torch.ones(3), "attention_mask"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(hidden: torch.Tensor, mask: torch.Tensor, culprit: str) -> None:
    with pytest.raises(squeezebert_fast.ArgumentError, match=culprit):
        mean_pool(hidden, mask)
