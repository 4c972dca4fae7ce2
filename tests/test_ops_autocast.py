"""bfloat16, by autocast and of the tensors themselves: at most twice the error of PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.backends import cpu
from squeezebert_fast.ops import reference
from tests.gradient_helpers import Random, assert_gradients_within_rule, norm_kept, seed_after

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

LOWEST = torch.finfo(torch.float32).min


def arguments(operation: str, dtype: torch.dtype) -> list[Tensor]:
    random = Random(1, dtype)
    return {
        "conv": [random(2, 33, 48), random(96, 12, 1, scale=0.3), random(96)],
        "projection": [
            random(2, 33, 48),
            *(random(*shape, scale=0.3) for _ in range(3) for shape in ((96, 12, 1), (96,))),
        ],
        "mlp": [
            random(2, 33, 48),
            random(96, 12, 1, scale=0.3),
            random(96),
            random(48, 24, 1, scale=0.3),
            random(48),
        ],
        "attention": [random(2, n, 48) for n in (17, 33, 33)],
        "norm": [random(2, 33, 48), random(2, 33, 48), random(48), random(48)],
    }[operation]


def run(module: object, operation: str, *tensors: Tensor) -> Tensor:
    f: Callable[..., Tensor]
    if operation == "conv":
        f = module.grouped_pointwise_conv  # type: ignore[attr-defined]
        return f(*tensors, 4, "gelu")
    if operation == "projection":
        return torch.stack(module.qkv_projection(*tensors, 4))  # type: ignore[attr-defined]
    if operation == "mlp":
        f = module.grouped_mlp  # type: ignore[attr-defined]
        return f(*tensors, 4, "gelu")
    if operation == "attention":
        mask = torch.zeros(2, 1, 1, 33, dtype=tensors[0].dtype)
        mask[1, ..., 20:] = torch.finfo(mask.dtype).min
        return module.attention(*tensors, mask, 4)  # type: ignore[attr-defined]
    return module.add_layer_norm(*tensors)  # type: ignore[attr-defined]


@pytest.mark.parametrize("operation", ["conv", "projection", "mlp", "attention", "norm"])
@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
def test_result_and_gradients_keep_the_rule(kind: str, operation: str) -> None:
    tensors = arguments(operation, torch.bfloat16 if kind == "bfloat16" else torch.float32)
    assert_gradients_within_rule(
        lambda *t: run(ops, operation, *t),
        lambda *t: run(reference, operation, *t),
        tensors,
        autocast=kind == "autocast",
    )


@pytest.mark.parametrize("operation", ["conv", "projection", "mlp", "attention", "norm"])
def test_dtypes_are_autocasts(operation: str) -> None:
    tensors = arguments(operation, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = run(ops, operation, *tensors), run(reference, operation, *tensors)
    assert y.dtype == expected.dtype
    y.float().sum().backward()
    assert {t.grad.dtype for t in tensors if t.grad is not None} == {torch.float32}
    assert all(t.grad is not None for t in tensors)


def test_a_norm_adds_a_rounded_product_to_a_float32_residual() -> None:
    random = Random(2)
    x, residual, weight, bias = random(2, 9, 24), random(2, 9, 24), random(24), random(24)

    def ours(x: Tensor, *others: Tensor) -> Tensor:
        return ops.add_layer_norm(x.to(torch.bfloat16), *others)

    def theirs(x: Tensor, *others: Tensor) -> Tensor:
        rounded = x.bfloat16() if x.dtype is torch.float32 else x
        return reference.add_layer_norm(rounded, *others)

    given = [x.detach().bfloat16().float().requires_grad_(), residual, weight, bias]
    assert_gradients_within_rule(ours, theirs, given, autocast=True)


def test_activations_are_kept_in_bfloat16() -> None:
    x, weight, bias, out, _ = arguments("mlp", torch.float32)
    kept: list[Tensor] = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        h = ops.grouped_pointwise_conv(x, weight, bias, 4, "gelu")
        ops.grouped_mlp(x, weight, bias, out, None, 4)
        ops.attention(h, h, h, None, 4)
    parameters = {t.data_ptr() for t in (weight, bias, out)}
    wide = [t for t in kept if t.dtype is not torch.bfloat16 and t.data_ptr() not in parameters]
    assert [tuple(t.shape) for t in wide] == [(2, 4, 33, 2)]  # two numbers a row of scores


def test_dropout_in_bfloat16_has_the_seeds_mask() -> None:
    x, gamma = torch.randn(3, 5, 24).bfloat16(), torch.ones(24)
    kept = norm_kept(seed_after(4, 0.5), (3, 5, 24), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.add_layer_norm(x, torch.zeros(3, 5, 24), gamma, 0 * gamma, dropout_p=0.5)
    expected = reference.add_layer_norm(x.float() * kept, torch.zeros(3, 5, 24), gamma, 0 * gamma)
    torch.testing.assert_close(y, expected)


def test_float64_is_not_autocast() -> None:
    tensors = arguments("mlp", torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = run(ops, "mlp", *tensors), run(reference, "mlp", *tensors)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)


def test_a_second_derivative_under_autocast_is_of_the_rounded_products() -> None:
    x, weight, bias = arguments("conv", torch.float32)

    def penalty(module: object) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            y = run(module, "conv", x, weight, bias)
        first = torch.autograd.grad(y.float().square().sum(), [x, weight], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), [x, weight, bias])

    for a, e in zip(penalty(ops), penalty(reference), strict=True):
        assert (a - e).norm() <= 0.05 * e.norm()
