"""Gradients of `grouped_pointwise_conv` through the native forward."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.backends import cpu
from squeezebert_fast.ops import grouped_pointwise_conv, reference
from tests.helpers import assert_within_rule

needs_native = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")


def arguments(
    seed: int = 0, groups: int = 4, tokens: tuple[int, ...] = (3, 5), last: tuple[int, ...] = (1,)
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*tokens, 24), (36, 24 // groups, *last), (36,)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def gradients(fn: object, tensors: list[Tensor], seed: Tensor, *rest: object) -> tuple[Tensor, ...]:
    y = fn(*tensors, *rest)  # type: ignore[operator]
    return torch.autograd.grad(y, [t for t in tensors if t.requires_grad], seed.to(y.dtype))


def native(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None = None
) -> Tensor:
    return grouped_pointwise_conv(x, weight, bias, groups, activation, backend="cpu", strict=True)


@needs_native
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_new", "relu", "silu", "tanh", "quick_gelu"])
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_gradients_are_within_the_rule(groups: int, activation: str | None) -> None:
    tensors = arguments(groups, groups)
    seed = torch.randn(3, 5, 36, generator=torch.Generator().manual_seed(1))
    actual = gradients(native, tensors, seed, groups, activation)
    same = gradients(reference.grouped_pointwise_conv, tensors, seed, groups, activation)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    exact = gradients(reference.grouped_pointwise_conv, doubles, seed, groups, activation)
    for a, s, e in zip(actual, same, exact, strict=True):
        assert_within_rule(a, s, e)


@needs_native
@pytest.mark.parametrize("needed", [n for n in itertools.product([False, True], repeat=3) if any(n)])
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("last", [(1,), ()])
def test_any_subset_of_arguments_may_need_a_gradient(
    last: tuple[int, ...], needed: tuple[bool, ...], activation: str | None
) -> None:
    tensors = [t.detach().requires_grad_(n) for t, n in zip(arguments(2, last=last), needed, strict=True)]
    seed = torch.randn(3, 5, 36, generator=torch.Generator().manual_seed(2))
    actual = gradients(native, tensors, seed, 4, activation)
    expected = gradients(reference.grouped_pointwise_conv, tensors, seed, 4, activation)
    torch.testing.assert_close(actual, expected)


@needs_native
def test_gradients_without_bias_without_tokens_and_of_an_expanded_seed() -> None:
    x, weight, _ = arguments(3, tokens=(0, 5))
    native(x, weight, None, 4).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 5, 24)
    assert weight.grad is not None
    assert not weight.grad.any()
    x, weight, bias = arguments(3)
    native(x.mT.contiguous().mT, weight.mT.mT, bias, 4).sum().backward()  # sum's gradient is expanded
    expected = torch.autograd.grad(
        reference.grouped_pointwise_conv(x, weight, bias, 4).sum(), [x, weight, bias]
    )
    torch.testing.assert_close([x.grad, weight.grad, bias.grad], list(expected))


@needs_native
def test_what_needs_no_gradient_is_not_kept_and_may_be_written_afterwards() -> None:
    x, weight, bias = arguments(4)
    frozen_x = x.detach()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = native(frozen_x, weight.detach(), bias, 4)
    assert not kept
    frozen_x.zero_()
    y.sum().backward()  # the unpatched convolution allows it too
    y = native(x, weight.detach(), bias.detach(), 4)
    with torch.no_grad():
        x.zero_()  # x itself is not needed for x's gradient
    y.sum().backward()


@needs_native
def test_a_weight_written_between_forward_and_backward_is_an_error() -> None:
    x, weight, bias = arguments(5)
    y = native(x, weight, bias, 4)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@needs_native
def test_a_second_backward_needs_retain_graph() -> None:
    y = native(*arguments(6), 4).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_new", "silu"])
@pytest.mark.parametrize("groups", [1, 3])
def test_first_and_second_derivatives_in_float64(groups: int, activation: str | None) -> None:
    generator = torch.Generator().manual_seed(groups)
    shapes = [(2, 6), (9, 6 // groups, 1), (9,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]

    def fn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return grouped_pointwise_conv(x, weight, bias, groups, activation)

    assert torch.autograd.gradcheck(
        fn, tensors, fast_mode=True, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(fn, tensors, fast_mode=True)


@needs_native
@pytest.mark.parametrize("activation", [None, "gelu", "silu"])
def test_second_derivatives_of_the_native_forward_equal_the_references(activation: str | None) -> None:
    def penalty(fn: object, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        y = fn(*tensors, 4, activation)  # type: ignore[operator]
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)  # type: ignore[arg-type, union-attr]

    tensors = arguments(7)
    actual = penalty(native, tensors)
    same = penalty(reference.grouped_pointwise_conv, tensors)
    exact = penalty(reference.grouped_pointwise_conv, [t.detach().double().requires_grad_() for t in tensors])
    for a, s, e in zip(actual, same, exact, strict=True):
        assert_within_rule(a, s, e)


@needs_native
def test_anomaly_mode_works() -> None:
    tensors = arguments(8)
    with torch.autograd.set_detect_anomaly(True):
        native(*tensors, 4).sum().backward()


@needs_native
def test_tensor_hooks_fire_with_the_right_gradients() -> None:
    x, weight, bias = arguments(9)
    seen: dict[str, Tensor] = {}
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        tensor.register_hook(lambda grad, name=name: seen.__setitem__(name, grad.clone()))
    weight.register_post_accumulate_grad_hook(lambda p: seen.__setitem__("accumulated", p.grad.clone()))
    y = native(x, weight, bias, 4)
    y.register_hook(lambda grad: 2 * grad)
    y.sum().backward()
    expected = torch.autograd.grad(
        2 * reference.grouped_pointwise_conv(x, weight, bias, 4).sum(), [x, weight, bias]
    )
    torch.testing.assert_close([seen["x"], seen["weight"], seen["bias"]], list(expected))
    torch.testing.assert_close(seen["accumulated"], expected[1])


@needs_native
def test_tensors_saved_elsewhere_and_checkpointing() -> None:
    tensors = arguments(10)
    expected = torch.autograd.grad(native(*tensors, 4).square().sum(), tensors)
    with torch.autograd.graph.save_on_cpu():
        y = native(*tensors, 4).square().sum()
    torch.testing.assert_close(torch.autograd.grad(y, tensors), expected)
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(native, *tensors, 4, use_reentrant=reentrant)
        y.square().sum().backward()
        torch.testing.assert_close(tuple(t.grad for t in tensors), expected)
        for t in tensors:
            t.grad = None


@needs_native
def test_no_grad_gives_no_graph_and_a_leaf_may_be_an_input() -> None:
    tensors = arguments(11)
    with torch.no_grad():
        assert not native(*tensors, 4).requires_grad
    assert native(*tensors, 4).grad_fn is not None
    inference = torch.inference_mode()(lambda: torch.randn(3, 24))()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        native(inference, tensors[1], tensors[2], 4)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_other_operations_are_differentiable_twice_in_float64(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    mask = torch.zeros(2, 1, 1, 3, dtype=torch.float64)
    mask[1, ..., 2] = torch.finfo(torch.float64).min
    qkv = [random(2, 3, 4) for _ in range(3)]
    assert torch.autograd.gradcheck(
        lambda *t: ops.attention(*t, mask, 2, backend=backend), qkv, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(
        lambda *t: ops.attention(*t, mask, 2, backend=backend), qkv, fast_mode=True
    )
    norm = [random(2, 4), random(2, 4), random(4), random(4)]
    assert torch.autograd.gradcheck(
        lambda *t: ops.add_layer_norm(*t, 1e-5, backend=backend), norm, fast_mode=True
    )
    mlp = [random(2, 4), random(6, 2, 1), random(6), random(4, 3, 1), random(4)]
    assert torch.autograd.gradcheck(lambda *t: ops.grouped_mlp(*t, 2, backend=backend), mlp, fast_mode=True)
