"""Gather, sum and LayerNorm; ids out of range make NaN and read nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.triton_kernels.embeddings import embeddings
from tests.triton.helpers import DTYPES, Random, hold


def definition(
    word: Tensor,
    position: Tensor,
    kind: Tensor,
    ids: Tensor,
    at: Tensor,
    kinds: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    summed = F.embedding(ids, word) + F.embedding(at, position) + F.embedding(kinds, kind)
    return F.layer_norm(summed, gamma.shape, gamma, beta, eps)


def tables(random: Random, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    return random(11, channels), random(9, channels), random(2, channels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "channels"), [((2, 9), 24), ((1, 1), 5), ((7,), 48), ((3, 0), 8), ((2, 9), 1100)]
)
def test_is_the_definition(shape: tuple[int, ...], channels: int, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    ids = torch.arange(torch.Size(shape).numel(), device=device).reshape(shape) % 11
    at = torch.arange(shape[-1], device=device, dtype=torch.int32)
    kinds = torch.ones((), dtype=torch.int64, device=device)
    arguments = (*tables(random, channels), ids, at, kinds, random(channels), random(channels), 1e-12)
    hold(embeddings(*arguments), definition, arguments)


def test_ids_of_any_strides(device: str) -> None:
    random = Random(device, torch.float32)
    ids = torch.arange(64, device=device).reshape(8, 8) % 11
    kinds = (torch.arange(8, device=device) % 2)[:, None]
    for given in (ids[::3, 1::2], ids.mT[:3, :4]):
        arguments = (*tables(random, 8), given, given.flip(0) % 9, kinds[:3], random(8), random(8), 1e-5)
        hold(embeddings(*arguments), definition, arguments)


@pytest.mark.parametrize("wrong", [-1, 11, 1 << 40, -(1 << 40)])
def test_an_id_out_of_range_makes_its_row_nan_and_no_other(wrong: int, device: str) -> None:
    random = Random(device, torch.float32)
    ids = torch.tensor([[0, wrong, 10]], device=device)
    at = torch.arange(3, device=device)
    arguments = (*tables(random, 8), ids, at, torch.zeros_like(ids), random(8), random(8), 1e-5)
    y = embeddings(*arguments)
    assert y[0, 1].isnan().all()
    good = ids.clamp(0, 10)
    expected = definition(*arguments[:3], good, *arguments[4:])
    torch.testing.assert_close(y[0, ::2], expected[0, ::2])
