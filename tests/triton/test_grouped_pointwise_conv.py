"""The product: every group count, shapes that fit no tile, every activation, layouts, dtypes."""

from __future__ import annotations

import math

import pytest
import torch

from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import (
    TILES,
    TILES_FLOAT32,
    Tile,
    columns_of,
    grouped_pointwise_conv,
)
from squeezebert_fast.triton_kernels.launching import block_for, blocks_at_once
from tests.helpers import to_double
from tests.triton.helpers import DTYPES, HALVES, Random, hold

TINY = Tile(16, 16, 16, 1, 2)
SEVERAL = TINY._replace(blocks=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_every_group_count(groups: int, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype, groups)
    arguments = (random(2, 9, 12), random(24, 12 // groups, 1), random(24), groups)
    hold(grouped_pointwise_conv(*arguments, tile=TINY), reference.grouped_pointwise_conv, arguments)


@pytest.mark.parametrize(
    ("shape", "out_channels", "groups"),
    [
        ((1, 1, 5), 3, 1),
        ((17, 35), 21, 7),
        ((2, 3, 16), 16, 1),
        ((5, 16), 94, 2),
        ((33, 40), 72, 2),
        ((0, 4), 8, 2),
        ((2, 0, 4), 8, 2),
    ],
)
@pytest.mark.parametrize("tile", [TINY, SEVERAL, None], ids=["tiny tile", "several blocks", "table's tile"])
def test_sizes_that_fit_no_tile(
    shape: tuple[int, ...], out_channels: int, groups: int, tile: Tile | None, device: str
) -> None:
    random = Random(device, torch.float32, out_channels)
    arguments = (random(*shape), random(out_channels, shape[-1] // groups, 1), None, groups)
    hold(grouped_pointwise_conv(*arguments, tile=tile), reference.grouped_pointwise_conv, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tile_of_the_tables(dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    arguments = (random(19, 72), random(96, 36, 1), random(96), 2)
    for tile in TILES_FLOAT32 if dtype is torch.float32 else TILES:
        hold(grouped_pointwise_conv(*arguments, tile=tile), reference.grouped_pointwise_conv, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", FUSED_ACTIVATIONS)
def test_every_activation(activation: str | None, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    arguments = (random(7, 8, scale=2.0), random(16, 4, 1), random(16), 2, activation)
    hold(grouped_pointwise_conv(*arguments), reference.grouped_pointwise_conv, arguments)


@pytest.mark.parametrize("dtype", HALVES)
def test_gelu_of_16_bit_data_is_within_its_rounding(dtype: torch.dtype, device: str) -> None:
    """Value by value, not only by the largest error: half an ulp of the result, and 1.1e-5 more, where Phi is
    tiny.
    """
    x = torch.linspace(-12.0, 12.0, 64 * 64, device=device).to(dtype).view(64, 64)
    identity = torch.eye(64, dtype=dtype, device=device)[..., None]
    y = grouped_pointwise_conv(x, identity, None, 1, "gelu").double()
    exact = x.double() * 0.5 * torch.erfc(-x.double() / math.sqrt(2.0))
    assert ((y - exact).abs() <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1.1e-5).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_stays_in_its_row_and_group(
    value: float, activation: str | None, dtype: torch.dtype, device: str
) -> None:
    random = Random(device, dtype)
    arguments = (random(5, 8), random(8, 4, 1), random(8), 2, activation)
    arguments[0][2, 1] = value
    actual = grouped_pointwise_conv(*arguments)
    expected = reference.grouped_pointwise_conv(*to_double(arguments)).to(dtype)
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert torch.equal(actual.isnan(), expected.isnan())


def test_any_strides_of_x(device: str) -> None:
    random = Random(device, torch.float32)
    weight, bias = random(8, 6, 1), random(8)
    for x in (
        random(3, 5, 24)[..., 4:16],
        random(12, 5).mT,
        random(1, 1, 12).expand(2, 3, 12),
        random(4, 6, 12)[::2, 1:],
    ):
        arguments = (x, weight, bias, 2)
        hold(grouped_pointwise_conv(*arguments), reference.grouped_pointwise_conv, arguments)


def test_float32_parameters_beside_16_bit_rows(device: str) -> None:
    half, full = Random(device, torch.bfloat16), Random(device, torch.float32, 1)
    x, weight, bias = half(5, 8), half(8, 4, 1), full(8)
    expected = grouped_pointwise_conv(x, weight, bias.bfloat16(), 2)
    torch.testing.assert_close(grouped_pointwise_conv(x, weight, bias, 2), expected, rtol=2**-6, atol=2**-6)


def test_a_program_makes_no_blocks_in_vain() -> None:
    assert [blocks_at_once(size, 64, 3) for size in (1, 64, 128, 192, 256, 320, 768)] == [1, 1, 2, 3, 2, 3, 3]
    assert blocks_at_once(768, 64, 1) == 1
    assert [columns_of(tile, 192) for tile in TILES] == [(64, 3), (64, 1), (64, 1), (64, 1), (32, 1)]


def test_blocks_waste_no_quarter() -> None:
    assert [block_for(size, 128) for size in (192, 768, 3072, 64, 96)] == [64, 128, 128, 64, 32]
    for size in range(1, 4096):
        block = block_for(size, 128)
        assert -(-size // block) * block <= 1.25 * (-(-size // 16) * 16)
