"""Pass C, fused, in one group a program, and as two products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import feed_forward as module
from squeezebert_fast.triton_kernels.feed_forward import Tile, blocks_for, feed_forward, grouped_mlp
from squeezebert_fast.triton_kernels.launching import Device
from tests.triton.helpers import DTYPES, Random, hold

TINY = Tile(16, 16, 1, 2)


def definition(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    y = reference.grouped_mlp(x, weight_in, bias_in, weight_out, bias_out, groups, activation)
    return reference.add_layer_norm(y, x, gamma, beta, eps)


def arguments_for(
    random: Random, shape: tuple[int, ...], hidden: int, out: int, groups: int, activation: str = "gelu"
) -> tuple[Any, ...]:
    return (
        random(*shape),
        random(hidden, shape[-1] // groups, 1, scale=(groups / shape[-1]) ** 0.5),
        random(hidden),
        random(out, hidden // groups, 1, scale=(groups / hidden) ** 0.5),
        random(out),
        groups,
        activation,
    )


def norm(random: Random, channels: int) -> tuple[Tensor, Tensor, float]:
    return random(channels), random(channels), 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 4, 6])
def test_every_group_count(groups: int, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype, groups)
    arguments = arguments_for(random, (2, 9, 24), 96, 24, groups)
    for tile in (TINY, None):
        hold(grouped_mlp(*arguments, tile=tile), reference.grouped_mlp, arguments)
    arguments += norm(random, 24)
    for tile in (TINY, None):
        hold(feed_forward(*arguments, tile=tile), definition, arguments)


@pytest.mark.parametrize(
    ("shape", "hidden", "out", "groups"),
    [
        ((1, 96), 32, 96, 2),
        ((5, 72), 42, 36, 1),
        ((17, 7), 21, 14, 7),
        ((0, 24), 96, 24, 4),
        ((3, 10), 26, 10, 2),
    ],
    ids=["three blocks each", "three in, two out", "groups of one", "no rows", "a hidden tail"],
)
def test_sizes_that_fit_no_tile(
    shape: tuple[int, ...], hidden: int, out: int, groups: int, device: str
) -> None:
    random = Random(device, torch.float32)
    arguments = arguments_for(random, shape, hidden, out, groups)
    hold(grouped_mlp(*arguments, tile=TINY), reference.grouped_mlp, arguments)
    if out == shape[-1]:
        arguments += norm(random, out)
        hold(feed_forward(*arguments, tile=TINY), definition, arguments)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_every_activation_without_biases(activation: str, device: str) -> None:
    random = Random(device, torch.bfloat16)
    x, weight_in, _, weight_out, _, groups, _ = arguments_for(random, (9, 24), 48, 24, 2)
    arguments = (x, weight_in, None, weight_out, None, groups, activation)
    hold(grouped_mlp(*arguments, tile=TINY), reference.grouped_mlp, arguments)


def test_strides(device: str) -> None:
    random = Random(device, torch.float32)
    arguments = arguments_for(random, (2, 9, 24), 48, 24, 2)
    arguments = (random(4, 18, 30)[::2, ::2, 6:], *arguments[1:])
    for tile in (TINY, None):
        y = feed_forward(*arguments, *(n := norm(random, 24)), tile=tile)
        hold(y, definition, (*arguments, *n))


def test_the_table_goes_from_one_kernel_to_three_with_the_rows(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    x = torch.empty(1, dtype=torch.bfloat16, device=device)
    monkeypatch.setattr(module, "device_of", lambda _: Device(132, 227 * 1024))

    def tile(rows: int, normalize: bool, channels: int = 192) -> object:
        return module.fused_tile(x, rows, 4, channels, channels, normalize=normalize)

    first, smallest = module.TILES[0], module.TILES[-1].rows
    assert tile(32768, True) == tile(32768, False) == first
    assert tile(128 * first.rows, True) == first, "128 programs for 132 multiprocessors"
    assert tile(90 * smallest, True) is None, (
        "360 programs, one a group, are done in three quarters of the time"
    )
    assert tile(140 * first.rows, True) is None, "and 560 in five quarters, for two"
    assert tile(66 * smallest, False) is not None, "four programs a row tile"
    assert tile(128, False) is None
    assert tile(32768, True, 768) is None, "a dense BERT's group fits no registers"
    monkeypatch.setattr(module, "device_of", lambda _: Device(132, 48 * 1024))
    assert tile(32768, True) is None, "no tile fits, yet one was chosen"


def test_blocks_waste_no_quarter() -> None:
    assert [blocks_for(n) for n in (192, 64, 96, 128, 384, 7)] == [
        (64,) * 3,
        (64,),
        (32,) * 3,
        (128,),
        (128,) * 3,
        (16,),
    ]
    assert all(sum(blocks_for(n)) < 1.5 * n for n in range(48, 385))
