"""int8 inference: the integers and scales of the CPU engine, exact sums, and the passes as its emulation has
them.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.activations import apply_activation
from squeezebert_fast.backends.quantized import quantize
from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import int8_passes
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import Tile
from squeezebert_fast.triton_kernels.grouped_pointwise_conv_int8 import TILES, grouped_pointwise_conv_int8
from squeezebert_fast.triton_kernels.int8_passes import Int8Conv
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows
from tests.triton.helpers import DTYPES, Random

TINY = Tile(16, 16, 16, 1, 2)


def int8_conv(random: Random, out: int, channels: int, groups: int, blocks: int) -> Int8Conv:
    weight = random(out, channels // groups, 1, scale=(groups / channels) ** 0.5)
    return Int8Conv(*quantize(weight, blocks), random(out), groups)


def dequantized(integers: Tensor, scale: Tensor) -> Tensor:
    """float64 values of integers whose last axis is cut into as many parts as scale's."""
    parts = integers.double().unflatten(-1, (scale.shape[-1], -1))
    return (parts * scale.double()[..., None]).flatten(-2)


def definition(x: Tensor, by: Int8Conv, activation: str | None = None) -> Tensor:
    """float64 product of the values that the integers stand for."""
    weight = dequantized(by.weight.flatten(1), by.scale)[..., None]
    values = dequantized(*quantize_rows(x, by.parts))
    bias = None if by.bias is None else by.bias.double()
    return apply_activation(activation, reference.grouped_pointwise_conv(values, weight, bias, by.groups))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "parts"), [((2, 9, 24), 4), ((17, 35), 7), ((1, 300), 1), ((0, 24), 2), ((3, 8), 8)]
)
def test_rows_are_quantized_as_the_cpu_engine_does(
    shape: tuple[int, ...], parts: int, dtype: torch.dtype, device: str
) -> None:
    x = Random(device, dtype)(*shape)
    integers, scales = quantize_rows(x, parts)
    if x.numel() == 0:
        assert integers.shape == shape
        assert scales.shape == (*shape[:-1], parts)
        return
    x[..., : shape[-1] // parts] *= 1e-3
    x[0, ..., -1:] = 0.0
    integers, scales = quantize_rows(x, parts)
    expected, of_parts = quantize(x.reshape(-1, shape[-1]), parts)
    assert torch.equal(scales.reshape(-1, parts), of_parts)
    difference = (integers.reshape(expected.shape).int() - expected.int()).abs()
    # a GPU may round product and sum at once, which moves a value that lies on a boundary
    assert difference.max().item() <= (device == "cuda")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_makes_its_part_nan_and_no_other(value: float, device: str) -> None:
    random = Random(device, torch.float32)
    x = random(5, 24)
    x[2, 7] = value
    _, scales = quantize_rows(x, 4)
    assert scales.isnan().nonzero().tolist() == [[2, 1]]
    by = int8_conv(random, 16, 24, 4, 1)
    y = int8_passes.conv(x, by)
    assert y.isnan().nonzero().tolist() == [[2, channel] for channel in range(4, 8)]


@pytest.mark.parametrize(
    ("rows", "channels", "out", "groups", "blocks"),
    [
        (9, 24, 16, 1, 1),
        (9, 24, 16, 4, 1),
        (17, 48, 40, 2, 3),
        (1, 35, 21, 7, 1),
        (33, 72, 36, 1, 2),
        (0, 8, 4, 2, 1),
    ],
)
@pytest.mark.parametrize("tile", [TINY, None], ids=["tiny tile", "table's tile"])
def test_products_are_exact_but_for_the_scales(
    rows: int, channels: int, out: int, groups: int, blocks: int, tile: Tile | None, device: str
) -> None:
    random = Random(device, torch.float32)
    x, by = random(rows, channels), int8_conv(random, out, channels, groups, blocks)
    y = grouped_pointwise_conv_int8(*quantize_rows(x, by.parts), *by, None, torch.float32, tile=tile)
    torch.testing.assert_close(y.double(), definition(x, by), rtol=2e-6, atol=2e-6)


def test_every_tile_gives_the_same_bits(device: str) -> None:
    random = Random(device, torch.float32)
    x, by = random(19, 72), int8_conv(random, 96, 72, 2, 2)
    integers = quantize_rows(x, by.parts)
    results = [
        grouped_pointwise_conv_int8(*integers, *by, "gelu", torch.bfloat16, tile=tile) for tile in TILES
    ]
    assert all(torch.equal(y, results[0]) for y in results[1:])


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_and_result_dtypes(activation: str, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    x, by = random(2, 5, 24), int8_conv(random, 16, 24, 2, 1)
    y = int8_passes.conv(x, by, activation)
    assert y.dtype is dtype
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(
        y.double(), definition(x, by, activation), rtol=2 * ulp + 1e-5, atol=1e-5 + ulp
    )


def test_the_passes_are_their_definitions(device: str) -> None:
    random = Random(device, torch.float32)
    x, gamma, beta = random(2, 9, 24), random(24), random(24)
    projections = [int8_conv(random, 24, 24, groups, 4 // groups) for groups in (1, 2, 4)]
    q, k, v = (definition(x, by).float() for by in projections)
    context = int8_passes.self_attention(x, projections, 3, None)
    torch.testing.assert_close(context, reference.attention(q, k, v, None, 3), rtol=1e-5, atol=1e-5)

    post = int8_conv(random, 24, 24, 1, 2)
    expected = F.layer_norm(definition(context, post).float() + x, (24,), gamma, beta, 1e-12)
    actual = int8_passes.conv_add_layer_norm(context, post, x, gamma, beta, 1e-12)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)

    into, out = int8_conv(random, 96, 24, 4, 1), int8_conv(random, 24, 96, 2, 2)
    hidden = int8_passes.conv(x, into, "gelu")
    expected = F.layer_norm(definition(hidden, out).float() + x, (24,), gamma, beta, 1e-12)
    actual = int8_passes.feed_forward(x, into, out, "gelu", gamma, beta, 1e-12)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_int8_costs_what_it_should(device: str) -> None:
    """About a hundredth of the values, as eight bits of a normal distribution do: another scheme would show."""
    random = Random(device, torch.float32)
    x, weight = random(64, 192), random(64, 192, 1, scale=192**-0.5)
    exact = reference.grouped_pointwise_conv(x, weight, None, 1)
    y = int8_passes.conv(x, Int8Conv(*quantize(weight), None, 1))
    error = (y - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0.002 < error < 0.02
