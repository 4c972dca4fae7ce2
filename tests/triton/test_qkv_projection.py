"""q, k and v in one launch, and the gradient of their input."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import TILES, TILES_FLOAT32, Tile
from squeezebert_fast.triton_kernels.qkv_projection import qkv_input_gradient, qkv_projection
from tests.triton.helpers import DTYPES, Random, hold

TINY = Tile(16, 16, 16, 1, 2)


def expected_projections(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], groups: int
) -> Tensor:
    pairs = zip(weights, biases, strict=True)
    return torch.stack([reference.grouped_pointwise_conv(x, w, b, groups, None) for w, b in pairs])


def expected_gradient(grads: Sequence[Tensor], weights: Sequence[Tensor], groups: int) -> Tensor:
    total = torch.zeros(())
    for grad, weight in zip(grads, weights, strict=True):
        by_group = grad.unflatten(-1, (groups, -1)).unsqueeze(-2)
        blocks = weight.reshape(groups, -1, weight.shape[1])
        total = total + (by_group @ blocks).flatten(-3)
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("groups", "inner", "outer"), [(1, 12, 12), (2, 40, 72), (3, 15, 21), (4, 64, 64)])
def test_both_ways(groups: int, inner: int, outer: int, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype, groups)
    weights = [random(outer, inner // groups, 1) for _ in range(3)]
    arguments = (random(3, 7, inner), weights, [random(outer) for _ in range(3)], groups)
    grads = [random(3, 7, outer) for _ in range(3)]
    for tile in (TINY, TINY._replace(blocks=3), None):
        made = qkv_projection(*arguments, tile=tile)
        hold(torch.stack(made), expected_projections, arguments)
        assert all(y.is_contiguous() and y.data_ptr() != made[0].data_ptr() for y in made[1:])
        hold(
            qkv_input_gradient(grads, weights, groups, tile=tile), expected_gradient, (grads, weights, groups)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tile_of_the_tables(dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    weights, biases = [random(96, 36, 1) for _ in range(3)], [random(96) for _ in range(3)]
    x, grads = random(19, 72), [random(19, 96) for _ in range(3)]
    for tile in TILES_FLOAT32 if dtype is torch.float32 else TILES:
        hold(
            torch.stack(qkv_projection(x, weights, biases, 2, tile=tile)),
            expected_projections,
            (x, weights, biases, 2),
        )
        hold(qkv_input_gradient(grads, weights, 2, tile=tile), expected_gradient, (grads, weights, 2))


@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
@pytest.mark.parametrize("shape", [(1, 8), (0, 8), (2, 0, 8), (2, 3, 1, 8)])
def test_biases_and_shapes(shape: tuple[int, ...], biases: tuple[bool, ...], device: str) -> None:
    random = Random(device, torch.float32)
    weights = [random(12, 4) for _ in range(3)]
    given = [random(12) if there else None for there in biases]
    arguments = (random(*shape), weights, given, 2)
    made = qkv_projection(*arguments)
    assert [tuple(y.shape) for y in made] == [(*shape[:-1], 12)] * 3
    hold(torch.stack(made), expected_projections, arguments)


def test_biases_of_different_dtypes(device: str) -> None:
    half, single = Random(device, torch.bfloat16), Random(device, torch.float32, 1)
    x, weights = half(5, 8), [half(12, 4) for _ in range(3)]
    biases = [single(12), half(12), single(12)]
    rounded = [bias.bfloat16() for bias in biases]
    made, expected = qkv_projection(x, weights, biases, 2), qkv_projection(x, weights, rounded, 2)
    torch.testing.assert_close(made, expected, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradients_of_one_two_or_three_in_any_strides(count: int, device: str) -> None:
    random = Random(device, torch.float32)
    grads = [random(5, 24)[:, 8:20], random(12, 5).mT, random(1, 12).expand(5, 12)][:count]
    weights = [random(12, 4, 1) for _ in grads]
    hold(qkv_input_gradient(grads, weights, 2), expected_gradient, (grads, weights, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row_and_projection(value: float, device: str) -> None:
    random = Random(device, torch.bfloat16)
    x, weights = random(5, 8), [random(8, 4, 1) for _ in range(3)]
    weights[1][6, 0] = value
    q, k, v = qkv_projection(x, weights, [None] * 3, 2)
    assert torch.stack([q, v]).isfinite().all()
    assert (~k.isfinite()).nonzero()[:, 1].unique().tolist() == [6]
    x[2] = value
    for y in qkv_projection(x, [weights[0]] * 3, [None] * 3, 2):
        assert (~y.isfinite()).nonzero()[:, 0].unique().tolist() == [2]
