"""Dropout of the kernels: rate, scale, seed, and the same mask whenever and however often it is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ArgumentError, ops
from squeezebert_fast.backends import cpu
from squeezebert_fast.ops.dropout import draw_seed
from tests.gradient_helpers import Random, attention_kept, dropout_kept, norm_kept, seed_after

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")


def kept_of(operation: str, number: int, p: float) -> Tensor:
    """A few tens of thousands of factors, in the order of places."""
    seed = seed_after(number, p)
    if operation == "attention":
        return attention_kept(seed, 3, 4, 37, 53, p)
    return (norm_kept if operation == "add_layer_norm" else dropout_kept)(seed, (7, 31, 101), p)


@pytest.mark.parametrize("operation", ["attention", "add_layer_norm", "dropout"])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_rate_is_p_and_what_is_kept_grows(operation: str, p: float) -> None:
    kept = kept_of(operation, 1, p)
    dropped = kept == 0
    torch.testing.assert_close(kept[~dropped], torch.full_like(kept[~dropped], 1 / (1 - p)))
    deviation = math.sqrt(p * (1 - p) / kept.numel())
    assert abs(float(dropped.double().mean()) - p) < 4.5 * deviation
    for axis in range(kept.dim()):  # nor is any row, column, head or sequence special
        others = [other for other in range(kept.dim()) if other != axis]
        rates = dropped.double().mean(others)
        bound = 6 * deviation * math.sqrt(rates.numel())
        assert float((rates - p).abs().max()) < bound


@pytest.mark.parametrize("operation", ["attention", "add_layer_norm", "dropout"])
def test_neighbours_and_seeds_are_independent(operation: str) -> None:
    first, second = (kept_of(operation, number, 0.5) == 0 for number in (1, 2))
    bound = 5 * math.sqrt(0.25 / first.numel())
    assert abs(float((first == second).double().mean()) - 0.5) < bound
    for axis in range(first.dim()):
        for distance in (1, 2, 8, 16):
            if first.shape[axis] <= distance:
                continue
            here = first.narrow(axis, distance, first.shape[axis] - distance)
            there = first.narrow(axis, 0, first.shape[axis] - distance)
            equal = float((here == there).double().mean())
            assert abs(equal - 0.5) < 5 * math.sqrt(0.25 / here.numel()), (axis, distance)


@pytest.mark.parametrize("operation", ["attention", "add_layer_norm", "dropout"])
def test_the_mask_is_the_seeds_on_any_number_of_threads(operation: str) -> None:
    threads = torch.get_num_threads()
    try:
        drawn = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            drawn.append(kept_of(operation, 5, 0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def layer(x: Tensor, p: float) -> Tensor:
    channels = torch.ones(x.shape[-1])
    x = ops.dropout(x, p)
    return ops.add_layer_norm(ops.attention(x, x, x, None, 2, p), x, channels, channels, dropout_p=p)


def test_pytorchs_seed_governs_it() -> None:
    x = Random(1)(2, 9, 8)
    runs = []
    for number in (3, 3, 4):
        torch.manual_seed(number)
        y = layer(x, 0.5)
        runs.append((y, torch.autograd.grad(y.square().sum(), x)[0], layer(x, 0.5)))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])
    assert not torch.equal(runs[0][0], runs[0][2])  # the next call draws anew
    with torch.no_grad():
        torch.manual_seed(3)
        assert torch.equal(layer(x, 0.5), runs[0][0])  # and so without gradients


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    before = torch.random.get_rng_state()
    assert draw_seed(0.0, torch.device("cpu")) is None
    layer(Random(2)(2, 9, 8), 0.0).sum().backward()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_everything_may_be_dropped() -> None:
    x = Random(3)(2, 9, 8)
    result = ops.attention(x, x, x, None, 2, 1.0)
    assert not result.any()
    assert not torch.autograd.grad(result.sum(), x)[0].any()
    weight, bias = torch.rand(2, 8)
    y = ops.add_layer_norm(x, x.detach(), weight, bias, dropout_p=1.0)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (8,), weight, bias, 1e-12))
    assert not torch.autograd.grad(y.square().sum(), x)[0].any()
    y = ops.dropout(x, 1.0)
    assert not y.any()
    assert not torch.autograd.grad(y.sum(), x)[0].any()


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (1,), (2, 3, 5, 7)])
def test_dropout_takes_any_shape_and_leaves_its_input_alone(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    for p in (0.0, 0.5):
        y = ops.dropout(x, p, strict=True)
        assert y.shape == x.shape
        assert bool((x == 1).all())
        assert y.numel() == 0 or y.data_ptr() != x.data_ptr()
        assert bool(((y == 0) | (y == 1 / (1 - p))).all())


def test_dropout_reads_any_strides() -> None:
    x = torch.rand(6, 5, 7).permute(2, 0, 1)[::2, :, 1:]
    y = ops.dropout(x, 0.0, strict=True)
    assert torch.equal(y, x)
    kept = dropout_kept(seed_after(9, 0.5), x.shape, 0.5)
    assert torch.equal(ops.dropout(x, 0.5, strict=True), x * kept)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_replays_the_mask(reentrant: bool) -> None:
    x = Random(4)(2, 9, 8)
    gradients: list[Tensor] = []
    for run in (
        lambda: layer(x, 0.5),
        lambda: torch.utils.checkpoint.checkpoint(layer, x, 0.5, use_reentrant=reentrant),
    ):
        torch.manual_seed(6)
        y = run()
        torch.rand(7)  # the generator has moved on by the time of the backward
        x.grad = None
        y.square().sum().backward()
        assert x.grad is not None
        gradients += [y.detach(), x.grad]
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


def test_dropout_keeps_the_mean() -> None:
    x = Random(5)(1, 6, 8).detach()
    weight, bias = torch.ones(8), torch.zeros(8)
    torch.manual_seed(0)
    attended = torch.stack([ops.attention(x, x, x, None, 2, 0.25) for _ in range(1500)])
    assert attended.std(0).min() > 0.01
    torch.testing.assert_close(attended.mean(0), ops.attention(x, x, x, None, 2), rtol=0, atol=0.08)
    dropped = torch.stack([ops.dropout(x, 0.25) for _ in range(1500)])
    torch.testing.assert_close(dropped.mean(0), x, rtol=0, atol=0.15)
    # far from zero a norm is nearly linear in one small part
    sums = torch.stack([ops.add_layer_norm(0.01 * x, x, weight, bias, dropout_p=0.25) for _ in range(1500)])
    torch.testing.assert_close(sums.mean(0), ops.add_layer_norm(0.01 * x, x, weight, bias), rtol=0, atol=2e-3)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, p: ops.attention(x, x, x, None, 2, p),
        lambda x, p: ops.add_layer_norm(x, x, torch.ones(8), torch.ones(8), dropout_p=p),
        lambda x, p: ops.dropout(x, p),
    ],
)
def test_what_is_no_probability_is_refused(call: Callable[[Tensor, float], Tensor], p: float) -> None:
    with pytest.raises(ArgumentError, match=r"dropout_p is .*, expected 0 <= dropout_p <= 1"):
        call(torch.zeros(2, 3, 8), p)
