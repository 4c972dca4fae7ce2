"""Pass B and the LayerNorm that ends it: one kernel and two give the same bits, by the same rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import post_attention
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm
from squeezebert_fast.triton_kernels.launching import Device
from squeezebert_fast.triton_kernels.post_attention import Tile, conv_add_layer_norm
from tests.triton.helpers import DTYPES, Random, hold

TINY = Tile(16, 16, 64, 1, 2)
"""As deep as the table's, so that sums have one order."""


def definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    product = reference.grouped_pointwise_conv(x, weight, bias, groups)
    return reference.add_layer_norm(product, residual, gamma, beta, eps)


def arguments_for(random: Random, shape: tuple[int, ...], channels: int, groups: int) -> tuple[Any, ...]:
    return (
        random(*shape),
        random(channels, shape[-1] // groups, 1),
        random(channels),
        groups,
        random(*shape[:-1], channels),
        random(channels),
        random(channels),
        1e-12,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 9, 24), (1, 24), (3, 1, 24), (0, 24), (4, 5, 1), (2, 37), (3, 700)])
def test_add_layer_norm(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    arguments = (random(*shape), random(*shape), random(shape[-1]), random(shape[-1]), 1e-5)
    hold(add_layer_norm(*arguments), reference.add_layer_norm, arguments)


def test_layer_norm_of_a_row_far_from_zero_does_not_cancel(device: str) -> None:
    random = Random(device, torch.float32)
    arguments = (random(4, 48, scale=1e-2) + 100.0, random(4, 48, scale=1e-2), random(48), random(48), 1e-12)
    hold(add_layer_norm(*arguments), reference.add_layer_norm, arguments)


def test_rows_of_any_stride_and_float32_norms(device: str) -> None:
    random, full = Random(device, torch.bfloat16), Random(device, torch.float32)
    arguments = (random(4, 6, 40)[::2, :, 8:32], random(2, 1, 24).expand(2, 6, 24), full(24), full(24), 1e-12)
    actual = add_layer_norm(*arguments)
    exact = reference.add_layer_norm(*(a.float() for a in arguments[:4]), 1e-12)
    torch.testing.assert_close(actual.float(), exact, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_one_kernel_is_the_definition_and_two_have_its_bits(
    rows: int, groups: int, dtype: torch.dtype, device: str
) -> None:
    arguments = arguments_for(Random(device, dtype, rows), (rows, 24), 40, groups)
    hold(conv_add_layer_norm(*arguments, tile=TINY), definition, arguments)
    hold(conv_add_layer_norm(*arguments), definition, arguments)
    # Sums of small whole numbers are exact: NumPy's, in the interpreter, are in another order in another tile.
    x, weight, *others = arguments
    exact = (x * 4).round(), (weight * 4).round(), *others
    if device == "cpu":  # a GPU's LayerNorm may add up in another order in another tile
        assert torch.equal(conv_add_layer_norm(*exact, tile=TINY), conv_add_layer_norm(*exact))


@pytest.mark.parametrize("shape", [(0, 24), (2, 0, 24), (2, 3, 35)])
def test_odd_sizes_and_no_rows(shape: tuple[int, ...], device: str) -> None:
    arguments = arguments_for(Random(device, torch.float32), shape, 21, 1)
    hold(conv_add_layer_norm(*arguments, tile=TINY), definition, arguments)


def test_the_table_takes_one_kernel_when_it_fills_the_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    x = torch.empty(1, dtype=torch.bfloat16, device=device)
    monkeypatch.setattr(post_attention, "device_of", lambda _: Device(132, 227 * 1024))

    def tile(rows: int) -> object:
        return post_attention.fused_tile(x, rows, 768, 1)

    first, last = post_attention.TILES[0], post_attention.TILES[-1]
    assert [tile(count * last.rows) for count in (1, 60, 80)] == [None] * 3
    assert tile(128 * last.rows) == last, "128 programs for 132 multiprocessors"
    assert tile(128 * first.rows) == tile(256 * first.rows) == first
    assert tile(140 * first.rows) is None, "a second wave of 8"
    monkeypatch.setattr(post_attention, "device_of", lambda _: Device(132, 32 * 1024))
    assert tile(256 * 128) is None, "no tile fits, yet one was chosen"
