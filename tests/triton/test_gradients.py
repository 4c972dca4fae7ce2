"""Gradients of the operations on Triton's kernels, against float64 by the tolerance rule."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import squeezebert_fast
from squeezebert_fast import ops
from squeezebert_fast.backends import triton_ops
from squeezebert_fast.backends.masks import zero_where_blind
from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels import attention_backward as attentions
from squeezebert_fast.triton_kernels import feed_forward_backward as blocks
from squeezebert_fast.triton_kernels import weight_gradient as weights
from squeezebert_fast.triton_kernels.attention import attention_with_statistics
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import Tile as ProductTile
from squeezebert_fast.triton_kernels.launching import Device
from tests.gradient_helpers import Operation, alike, doubled
from tests.helpers import assert_within_rule
from tests.model_pairs import inputs_for, labels_for, pair, tiny_config
from tests.triton.helpers import DTYPES, HALVES, Random
from tests.triton.test_attention import masks_for, widened

OPTIONS: dict[str, Any] = {"backend": "triton", "strict": True}
ACTIVATIONS = [None, "gelu", "gelu_new", "relu", "silu"]


def leaves(random: Random, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Weights, of three axes and a last one of 1, are small, so that sums stay near 1."""
    return [random(*shape, scale=0.3 if shape[-1] == 1 else 1.0).requires_grad_() for shape in shapes]


def linear(tensors: list[Tensor]) -> list[Tensor]:
    """The same with weights of two axes, as nn.Linear holds them."""
    return [t.detach().squeeze(-1).requires_grad_() if t.shape[2:] == (1,) else t for t in tensors]


def results(
    operation: Operation, tensors: list[Tensor | None], autocast: torch.dtype | None = None
) -> list[Tensor]:
    """The result, and the gradients of a weighted sum of it for the tensors that want one."""
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    device = wanted[0].device.type
    with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
        y = operation(*tensors)
    factors = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, wanted, factors)]


def hold_gradients(
    operation: Operation,
    definition: Operation,
    tensors: list[Tensor | None],
    autocast: torch.dtype | None = None,
    exact: Operation | None = None,
) -> None:
    """The tolerance rule for the result and every gradient. exact: the definition in float64, if it is another."""
    actual = results(operation, tensors, autocast)
    same = results(definition, tensors, autocast)
    doubles = results(exact or definition, doubled(tensors))
    coarse = autocast is not None or any(t is not None and t.dtype is not torch.float32 for t in tensors)
    for number, (a, s, e) in enumerate(zip(actual, same, doubles, strict=True)):
        assert_within_rule(a, s, e, f"gradient {number}" if number else "result", whole_model=coarse)


# The products


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "tanh"])
def test_a_convolution(activation: str | None, dtype: torch.dtype, device: str) -> None:
    for groups, shape in ((1, (2, 9, 24)), (4, (37, 24)), (3, (1, 24))):
        tensors = leaves(Random(device, dtype), shape, (36, 24 // groups, 1), (36,))
        hold_gradients(
            lambda x, w, b, g=groups: ops.grouped_pointwise_conv(x, w, b, g, activation, **OPTIONS),
            lambda x, w, b, g=groups: reference.grouped_pointwise_conv(x, w, b, g, activation),
            linear(tensors) if groups == 1 else tensors,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_feed_forward_block(activation: str | None, dtype: torch.dtype, device: str) -> None:
    for groups, shape in ((1, (2, 9, 24)), (4, (37, 24))):
        shapes = (shape, (72, 24 // groups, 1), (72,), (36, 72 // groups, 1), (36,))
        tensors = leaves(Random(device, dtype), *shapes)
        hold_gradients(
            lambda *t, g=groups: ops.grouped_mlp(*t, g, activation, **OPTIONS),
            lambda *t, g=groups: reference.grouped_mlp(*t, g, activation),
            linear(tensors) if groups == 1 else tensors,
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_projection(dtype: torch.dtype, device: str) -> None:
    def stacked(module: Any, groups: int, **options: Any) -> Operation:
        return lambda *t: torch.stack(module.qkv_projection(*t, groups, **options))

    for groups, shape in ((1, (2, 9, 24)), (4, (37, 24))):
        tensors = leaves(Random(device, dtype), shape, *[(36, 24 // groups, 1), (36,)] * 3)
        hold_gradients(
            stacked(ops, groups, **OPTIONS),
            stacked(reference, groups),
            linear(tensors) if groups == 1 else tensors,
        )


@pytest.mark.parametrize("needed", [n for n in itertools.product([False, True], repeat=5) if any(n)])
def test_any_subset_of_a_blocks_arguments_may_want_a_gradient(needed: tuple[bool, ...], device: str) -> None:
    shapes = ((19, 12), (24, 6, 1), (24,), (12, 12, 1), (12,))
    tensors = leaves(Random(device, torch.float32), *shapes)
    for tensor, wanted in zip(tensors, needed, strict=True):
        tensor.requires_grad_(wanted)
    actual = results(lambda *t: ops.grouped_mlp(*t, 2, "gelu", **OPTIONS), tensors)
    expected = results(lambda *t: reference.grouped_mlp(*t, 2, "gelu"), tensors)
    torch.testing.assert_close(actual, expected)
    actual = results(lambda *t: ops.grouped_pointwise_conv(*t, 2, "gelu", **OPTIONS), tensors[:3])\
        if any(needed[:3]) else []  # fmt: skip
    expected = (
        results(lambda *t: reference.grouped_pointwise_conv(*t, 2, "gelu"), tensors[:3]) if actual else []
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_weights_gradient_in_parts_is_that_of_one(dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    grad, x = random(90, 40), random(90, 24)
    tile = ProductTile(16, 16, 16, 1, 2, blocks=2)
    halves = zip(grad.float().chunk(2, 1), x.float().chunk(2, 1), strict=True)
    expected = torch.cat([a.mT @ b for a, b in halves])[..., None]
    assert weights.Cut.of(tile, 20, 12) == (16, 2, 16)
    whole, bias = weights.weight_gradient(grad, x, 2, bias=True, parts=1, tile=tile)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    assert bias is not None
    torch.testing.assert_close(bias, grad.float().sum(0), rtol=1e-4, atol=1e-4)
    alone, _ = weights.weight_gradient(grad, x, 2, bias=True, parts=1, tile=tile._replace(blocks=1))
    assert torch.equal(alone, whole), "blocks of the same rows change no bit"
    for parts in (3, 40):  # 40: more than there are steps, so that some are empty
        cut, bias_cut = weights.weight_gradient(grad, x, 2, bias=True, parts=parts, tile=tile)
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-4)
        assert bias_cut is not None
        torch.testing.assert_close(bias_cut, bias, rtol=1e-4, atol=1e-4)
        again, _ = weights.weight_gradient(grad, x, 2, bias=False, parts=parts, tile=tile)
        assert torch.equal(again, cut), "the order of sums is fixed"


def test_rows_are_cut_so_that_waves_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "device_of", lambda _: Device(132, 227 * 1024))
    x = torch.empty(1)
    assert [weights.parts_of(x, 1 << 15, programs) for programs in (36, 100, 132, 1000)] == [7, 5, 1, 1]
    assert weights.parts_of(x, 511, 36) == weights.parts_of(x, 0, 36) == 1, "too few rows to cut"
    assert weights.parts_of(x, 1024, 36) == 2


def test_the_hidden_tensor_and_its_gradient_in_any_tile(device: str) -> None:
    random = Random(device, torch.float32)
    x, grad, bias = random(37, 24), random(37, 20), random(72)
    into, out = random(72, 12, 1, scale=0.3), random(20, 36, 1, scale=0.3)
    for tile in (ProductTile(16, 16, 16, 1, 2), ProductTile(32, 64, 16, 2, 2), None):
        hidden, of_z = blocks.hidden_gradient(
            grad, x, into, bias, out, 2, "silu", keep_hidden=True, tile=tile
        )
        z = reference.grouped_pointwise_conv(x, into, bias, 2).requires_grad_()
        activated = torch.nn.functional.silu(z)
        y = reference.grouped_pointwise_conv(activated, out, None, 2)
        torch.testing.assert_close(hidden, activated.detach())
        torch.testing.assert_close(of_z, torch.autograd.grad(y, z, grad)[0])


A100, H100, RTX = Device(108, 163 * 1024, 8), Device(132, 227 * 1024, 9), Device(170, 99 * 1024, 12)


@pytest.mark.parametrize(
    ("card", "out", "into", "cut"),
    [
        (H100, 768, 192, (128, 3, 64)),
        (H100, 192, 768, (64, 3, 128)),
        (H100, 192, 192, (64, 3, 64)),
        (H100, 768, 768, (128, 1, 128)),
        (A100, 768, 192, (64, 3, 64)),
        (A100, 768, 768, (64, 3, 128)),
        (RTX, 768, 768, (128, 1, 128)),
        (RTX, 192, 768, (64, 1, 64)),
    ],
)
def test_a_program_makes_the_sums_that_a_card_holds(
    card: Device, out: int, into: int, cut: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "device_of", lambda x: card)
    tile = weights.tile_for(torch.empty(0, dtype=torch.bfloat16), out, into)
    found = weights.Cut.of(tile, out, into)
    assert found == cut
    assert found.programs(out, into) == out * into // (cut[0] * cut[1] * cut[2])


# Attention


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "mask", [*(n for n in masks_for(2, 2, 3, 3, torch.float32, "cpu") if "infinity" not in n), "none"]
)
def test_attention(mask: str, dtype: torch.dtype, device: str) -> None:
    random = Random(device, dtype)
    queries, keys, heads = 19, 35, 4
    tensors = leaves(random, (2, queries, 24), (2, keys, 24), (2, keys, 24))
    added = None if mask == "none" else masks_for(2, heads, queries, keys, dtype, device)[mask]
    wide = widened(added)
    definition = lambda q, k, v: reference.attention(q, k, v, added, heads)  # noqa: E731
    if dtype is torch.float16 and added is not None:
        # whose own sum of the lowest number and a score isn't that
        definition = lambda q, k, v: reference.attention(  # noqa: E731
            q.float(), k.float(), v.float(), widened(added, torch.float32), heads
        ).to(dtype)
    hold_gradients(
        lambda q, k, v: ops.attention(q, k, v, added, heads, **OPTIONS),
        definition,
        tensors,
        exact=lambda q, k, v: reference.attention(q, k, v, wide, heads),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["none", "padding", "a query that sees nothing", "row of minus infinity"])
def test_what_attends_to_nothing_has_no_gradient_and_gives_none(
    mask: str, dtype: torch.dtype, device: str
) -> None:
    random, queries, keys, heads = Random(device, dtype), 19, 35, 4
    tensors = leaves(random, (2, queries, 24), (2, keys, 24), (2, keys, 24))
    added = None if mask == "none" else masks_for(2, heads, queries, keys, torch.float32, device)[mask]
    attends = torch.ones(2, 1, queries, 1, dtype=torch.bool, device=device)
    attends[1] = False
    attends[0, :, queries // 2] = False  # whose row of the masks is the lowest number, or -inf

    def definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wide = torch.float32 if q.dtype is torch.float16 else q.dtype
        # with nothing in a blind row that its zeros would have to hide
        seen = None if added is None else torch.where(attends, added, 0.0).to(wide)
        context = reference.attention(q.to(wide), k.to(wide), v.to(wide), seen, heads)
        return zero_where_blind(context, attends, heads).to(q.dtype)

    own = None if added is None else masks_for(2, heads, queries, keys, dtype, device)[mask]
    operation = lambda q, k, v, p=0.0: ops.attention(q, k, v, own, heads, p, attends=attends, **OPTIONS)  # noqa: E731
    hold_gradients(operation, definition, tensors)
    context, *gradients = results(lambda *qkv: operation(*qkv, 0.5), tensors)
    assert not context[1].any()
    assert not context[0, queries // 2].any()
    assert all(g.isfinite().all() and not g[1].any() for g in gradients)
    assert not gradients[0][0, queries // 2].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["none", "padding"])
def test_attention_among_tokens_that_are_alike(mask: str, dtype: torch.dtype, device: str) -> None:
    """There a query's gradient is a small difference: what is rounded in between shows."""
    random = Random(device, dtype)
    tensors = [alike(random, 2, n, 128) for n in (19, 70, 70)]
    added = None if mask == "none" else masks_for(2, 2, 19, 70, dtype, device)[mask]
    wide = widened(added)
    hold_gradients(
        lambda q, k, v: ops.attention(q, k, v, added, 2, **OPTIONS),
        lambda q, k, v: reference.attention(q, k, v, added, 2),
        tensors,
        exact=lambda q, k, v: reference.attention(q, k, v, wide, 2),
    )


@pytest.mark.parametrize("head", [1, 5, 64, 96, 128])
def test_heads_of_every_width_in_every_tile(head: int, device: str) -> None:
    random = Random(device, torch.float32)
    q, k, v, grad = (
        random(1, 21, 2 * head),
        random(1, 37, 2 * head),
        random(1, 37, 2 * head),
        random(1, 21, 2 * head),
    )
    mask = masks_for(1, 2, 21, 37, torch.float32, device)["soft"]
    inputs = [t.clone().requires_grad_() for t in (q, k, v)]
    expected = torch.autograd.grad(reference.attention(*inputs, mask, 2), inputs, grad)
    _, statistics = attention_with_statistics(q, k, v, mask, 2, NO_DROPOUT)
    tile = attentions.Tile
    for tiles in ((tile(16, 16, 1, 2), tile(16, 16, 1, 2)), (tile(32, 16, 1, 2), tile(16, 64, 1, 2)), None):
        actual = attentions.attention_backward(
            grad, q, k, v, mask, statistics, 2, NO_DROPOUT, (True,) * 3, tiles=tiles
        )
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("needs", [n for n in itertools.product([False, True], repeat=3) if any(n)])
def test_only_what_is_wanted_of_attention_comes(needs: tuple[bool, bool, bool], device: str) -> None:
    random = Random(device, torch.float32)
    tensors = leaves(random, (2, 9, 8), (2, 11, 8), (2, 11, 8))
    for tensor, wanted in zip(tensors, needs, strict=True):
        tensor.requires_grad_(wanted)
    actual = results(lambda q, k, v: ops.attention(q, k, v, None, 2, **OPTIONS), tensors)
    torch.testing.assert_close(
        actual, results(lambda q, k, v: reference.attention(q, k, v, None, 2), tensors)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_probabilities_stay_dropped_in_the_backward(dtype: torch.dtype, device: str) -> None:
    random, p, heads = Random(device, dtype), 0.4, 2
    q, k, v, grad = random(1, 19, 16), random(1, 37, 16), random(1, 37, 16), random(1, 19, 16)
    drop = Dropout(p, torch.tensor(11, device=device))
    ones = torch.eye(37, device=device).repeat(1, heads).expand(1, 37, heads * 37).contiguous()
    kept, _ = attention_with_statistics(
        torch.zeros(1, 19, heads * 37, device=device), ones * 0, ones, None, heads, drop
    )
    kept = kept.unflatten(-1, (heads, 37)).transpose(1, 2) * 37

    def definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        probabilities = reference.attention_scores(q, k, None, heads).softmax(-1) * kept.to(q.dtype)
        return (probabilities @ v.unflatten(-1, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
        return torch.autograd.grad(definition(*inputs), inputs, grad.to(dtype))

    _, statistics = attention_with_statistics(q, k, v, None, heads, drop)
    tile = attentions.Tile
    for tiles in (None, (tile(16, 16, 1, 2), tile(16, 16, 1, 2)), (tile(16, 64, 1, 2), tile(32, 16, 1, 2))):
        actual = attentions.attention_backward(
            grad, q, k, v, None, statistics, heads, drop, (True,) * 3, tiles=tiles
        )
        for a, s, e in zip(actual, gradients(dtype), gradients(torch.float64), strict=True):
            assert_within_rule(a, s, e, whole_model=dtype is not torch.float32)


# The norm


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm(dtype: torch.dtype, device: str) -> None:
    for shape in ((2, 19, 24), (1, 7), (5, 300)):
        hold_gradients(
            lambda *t: ops.add_layer_norm(*t, 1e-5, **OPTIONS),
            lambda *t: reference.add_layer_norm(*t, 1e-5),
            leaves(Random(device, dtype), shape, shape, shape[-1:], shape[-1:]),
        )


def test_many_rows_make_many_partial_sums(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    from squeezebert_fast.triton_kernels import add_layer_norm_backward

    tensors = leaves(Random(device, torch.float32), (203, 24), (203, 24), (24,), (24,))
    expected = results(lambda *t: reference.add_layer_norm(*t, 1e-5), tensors)
    for multiprocessors in (1, 3, 132):
        monkeypatch.setattr(
            add_layer_norm_backward, "device_of", lambda _, n=multiprocessors: Device(n, 227 * 1024)
        )
        actual = results(lambda *t: ops.add_layer_norm(*t, 1e-5, **OPTIONS), tensors)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("needs", [n for n in itertools.product([False, True], repeat=4) if any(n)])
def test_dropped_elements_get_no_gradient(needs: tuple[bool, ...], device: str) -> None:
    tensors = leaves(Random(device, torch.float32), (9, 24), (9, 24), (24,), (24,))
    for tensor, wanted in zip(tensors, needs, strict=True):
        tensor.requires_grad_(wanted)
    ones, zeros = torch.ones(9, 24, device=device), torch.zeros(9, 24, device=device)
    torch.manual_seed(3)
    shown = ops.add_layer_norm(ones, zeros, ones[0], zeros[0], 1.0, 0.4, **OPTIONS)
    kept = (shown > shown.amin(-1, keepdim=True)) / 0.6
    torch.manual_seed(3)
    actual = results(lambda *t: ops.add_layer_norm(*t, 1e-5, 0.4, **OPTIONS), tensors)
    expected = results(lambda x, *t: reference.add_layer_norm(x * kept, *t, 1e-5), tensors)
    torch.testing.assert_close(actual, expected)


# All of them


@pytest.mark.parametrize("autocast", HALVES)
def test_autocast_keeps_parameters_gradients_in_float32(autocast: torch.dtype, device: str) -> None:
    if device == "cpu" and autocast is torch.float16:
        pytest.skip("needs a GPU: obstacles on the CPU are the CPU's")
    random = Random(device, torch.float32)
    tensors = leaves(random, (2, 9, 24), (24, 12, 1), (24,), (48, 12, 1), (24, 24, 1), (24,))

    def block(module: Any, options: dict[str, Any]) -> Operation:
        def run(x: Tensor, weight: Tensor, bias: Tensor, into: Tensor, out: Tensor, gamma: Tensor) -> Tensor:
            y = module.grouped_pointwise_conv(x, weight, bias, 2, None, **options)
            y = module.attention(y, y, y, None, 4, **options)
            y = module.add_layer_norm(y, x, gamma, bias, 1e-5, **options)
            return module.grouped_mlp(y, into, None, out, bias, 2, "gelu", **options)

        return run

    hold_gradients(block(ops, OPTIONS), block(reference, {}), tensors, autocast)
    for tensor, gradient in zip(tensors, results(block(ops, OPTIONS), tensors, autocast)[1:], strict=True):
        assert gradient.dtype is tensor.dtype is torch.float32


def test_no_tokens_no_keys_and_an_expanded_gradient(device: str) -> None:
    random = Random(device, torch.float32)
    for shape in ((0, 24), (2, 0, 24)):
        tensors = leaves(random, shape, (36, 12, 1), (36,), (24, 18, 1), (24,))
        for operation in (
            lambda x, w, b, *_: ops.grouped_pointwise_conv(x, w, b, 2, "gelu", **OPTIONS),
            lambda *t: ops.grouped_mlp(*t, 2, "gelu", **OPTIONS),
            lambda x, *t: ops.add_layer_norm(x, x, t[3], t[3], 1e-5, **OPTIONS),
        ):
            wanted = torch.autograd.grad(operation(*tensors).sum(), tensors, allow_unused=True)
            assert all(g is None or not g.any() for g in wanted)
            assert wanted[0] is not None
            assert wanted[0].shape == shape
    q, k = leaves(random, (2, 3, 8), (2, 0, 8))
    assert not torch.autograd.grad(ops.attention(q, k, k, None, 2, **OPTIONS).sum(), q)[0].any()
    x, weight = leaves(random, (2, 5, 24), (36, 12, 1))
    expected = torch.autograd.grad(reference.grouped_pointwise_conv(x, weight, None, 2).sum(), (x, weight))
    actual = torch.autograd.grad(ops.grouped_pointwise_conv(x, weight, None, 2, **OPTIONS).sum(), (x, weight))
    torch.testing.assert_close(actual, expected)


def test_strided_inputs_and_gradients(device: str) -> None:
    random = Random(device, torch.float32)
    x = random(3, 24, 7).mT.requires_grad_()
    wide = random(7, 3, 40).transpose(0, 1)[..., 9:33].requires_grad_()
    weight, into, out, gamma = leaves(random, (24, 12, 1), (48, 12, 1), (24, 24, 1), (24,))
    for run in (
        lambda m, **o: m.grouped_pointwise_conv(x, weight, None, 2, **o),
        lambda m, **o: m.grouped_mlp(x, into, None, out, None, 2, "gelu", **o),
        lambda m, **o: m.attention(x, wide, x, None, 2, **o),
        lambda m, **o: m.add_layer_norm(wide, x, gamma, gamma, 1e-5, **o),
    ):
        grad = random(3, 24, 7).mT
        pairs = [
            torch.autograd.grad(y, (x, wide, weight, into, out, gamma), grad, allow_unused=True)
            for y in (run(ops, **OPTIONS), run(reference))
        ]
        for actual, expected in zip(*pairs, strict=True):
            assert (actual is None) == (expected is None)
            if actual is not None:
                torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [(1,), ()])
def test_a_graph_expects_what_the_kernels_make(
    last: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    """Shapes, dtypes, strides and devices, also of bfloat16 inputs beside float32 parameters and residuals."""
    random, single = Random(device, dtype), Random(device, torch.float32)
    x, weight, bias = random(2, 5, 8), single(12, 4, *last), single(12)
    out, gamma, residual = single(6, 6, *last), single(8), single(2, 5, 8)
    seed, needs = torch.tensor(3), (True, True, False, True, True)
    norm = (x, residual, gamma, gamma, 1e-5, 0.5, seed)
    attended = (x, x, x, None, 2, 0.5, seed)
    _, total, mean, reciprocal = triton_ops.add_layer_norm(*norm)
    context, statistics = triton_ops.attention(*attended)
    cases = {
        "grouped_pointwise_conv": (x, weight, bias, 2, "gelu"),
        "grouped_pointwise_conv_backward": (random(2, 5, 12), x, weight, bias, 2, "gelu", needs[:3]),
        "qkv_projection": (x, *[weight, bias] * 3, 2),
        "qkv_projection_backward": (
            *(random(2, 5, 12), None, random(2, 5, 12)),
            *(x, weight, weight, weight, 2, (*needs[:3], False, False, True, True)),
        ),
        "grouped_mlp": (x, weight, bias, out, None, 2, "relu"),
        "grouped_mlp_backward": (random(2, 5, 6), x, weight, bias, out, None, 2, "relu", (*needs[:4], False)),
        "attention": attended,
        "attention_backward": (context, *attended[:4], statistics, *attended[4:], needs[:3]),
        "add_layer_norm": norm,
        "add_layer_norm_backward": (total, total, mean, reciprocal, gamma, 0.5, seed, dtype, needs[:4]),
    }

    def told(results: Any) -> list[tuple[Any, ...]]:
        results = [results] if isinstance(results, Tensor) else results
        return [(t.shape, t.dtype, t.stride(), t.device) for t in results if t is not None]

    for name, arguments in cases.items():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]
            expected = told(getattr(torch.ops.squeezebert_fast, name)(*fakes))
        assert told(getattr(triton_ops, name)(*arguments)) == expected, name


def test_a_second_derivative_is_right(device: str) -> None:
    tensors = leaves(Random(device, torch.float32), (2, 5, 8), (8, 4, 1), (16, 4, 1), (8, 8, 1), (8,))

    def penalty(module: Any, options: dict[str, Any]) -> tuple[Tensor, ...]:
        x, weight, into, out, gamma = tensors
        y = module.grouped_pointwise_conv(x, weight, None, 2, **options)
        qkv = module.qkv_projection(y, weight, None, weight, None, weight, None, 2, **options)
        y = module.attention(*qkv, None, 2, **options)
        y = module.add_layer_norm(y, x, gamma, gamma, 1e-5, **options)
        y = module.grouped_mlp(y, into, None, out, None, 2, "gelu", **options)
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)  # type: ignore[arg-type, union-attr]

    torch.testing.assert_close(penalty(ops, OPTIONS), penalty(reference, {}), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("library", [0, 1], ids=["ours", "theirs"])
def test_a_patched_model_trains(library: int, device: str) -> None:
    name = "SqueezeBertForSequenceClassification"
    config = tiny_config(num_hidden_layers=1, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = pair(name, config)[library].to(device).train()
    model.transformer.embeddings.dropout.p = 0.0  # it is PyTorch's beside Triton, and a kernel's on the CPU
    inputs = inputs_for(name, config)
    inputs = {key: value.to(device) for key, value in (inputs | labels_for(name, config, inputs)).items()}
    fast = squeezebert_fast.patch(model, backend="triton")
    found = []
    for on in (False, True):
        if on and library == 0:
            fast.gradient_checkpointing_enable()
        fast.zero_grad()
        torch.manual_seed(0)
        fast(**inputs).loss.backward()
        found.append({n: p.grad.clone() for n, p in fast.named_parameters() if p.grad is not None})
    torch.testing.assert_close(found[0], found[1])  # dropout replayed
    if device == "cpu" and squeezebert_fast.backends.cpu.instruction_sets():  # whose dropout is the same
        squeezebert_fast.unpatch(fast)
        same = squeezebert_fast.patch(model, backend="cpu", strict=True)
        same.zero_grad()
        torch.manual_seed(0)
        same(**inputs).loss.backward()
        torch.testing.assert_close(
            {n: p.grad for n, p in same.named_parameters() if p.grad is not None},
            found[0],
            rtol=1e-3,
            atol=1e-5,
        )
