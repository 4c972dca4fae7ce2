"""Contexts that see the PyTorch operations of a call: no kernel hides from them, and results stay right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from squeezebert_fast import UnsupportedError, ops
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import obstacle
from squeezebert_fast.ops import grouped_pointwise_conv, reference
from tests.helpers import assert_within_rule

needs_native = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")


def arguments(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 24), (36, 6, 1), (36,)]
    x, weight, bias = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    return x, weight, bias


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return grouped_pointwise_conv(x, weight, bias, 4, "gelu", backend="cpu")


def definition(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return reference.grouped_pointwise_conv(x, weight, bias, 4, "gelu")


class Wrapped(Tensor):
    """A subclass that computes as its base and stays itself, as DTensor and quantised tensors do."""


class LoggingMode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_torch_func_transforms() -> None:
    x, weight, bias = arguments()
    exact = definition(x, weight, bias)
    torch.testing.assert_close(torch.vmap(conv, (0, None, None))(x, weight, bias), exact)
    weights = torch.stack([weight, 2 * weight, -weight])
    per_weight = torch.vmap(conv, (None, 0, None))(x, weights, bias)
    torch.testing.assert_close(per_weight, torch.stack([definition(x, w, bias) for w in weights]))
    for transform in (torch.func.grad, lambda f: torch.func.vmap(torch.func.grad(f), (0, None, None))):
        actual = transform(lambda *t: conv(*t).sum())(x, weight, bias)
        torch.testing.assert_close(actual, transform(lambda *t: definition(*t).sum())(x, weight, bias))
    tangents = arguments()
    actual = torch.func.jvp(conv, (x, weight, bias), tangents)
    torch.testing.assert_close(actual, torch.func.jvp(definition, (x, weight, bias), tangents))
    hessian = torch.func.hessian(lambda t: conv(t, weight, bias).sum())(x[0, :1])
    torch.testing.assert_close(
        hessian, torch.func.hessian(lambda t: definition(t, weight, bias).sum())(x[0, :1])
    )


def test_forward_mode_differentiation() -> None:
    x, weight, bias = arguments()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(conv(dual, weight, bias)).tangent
        expected = torch.autograd.forward_ad.unpack_dual(definition(dual, weight, bias)).tangent
    torch.testing.assert_close(tangent, expected)


def test_a_jit_trace_holds_the_operations() -> None:
    x, weight, bias = arguments()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(conv, (x, weight, bias))
    torch.testing.assert_close(traced(2 * x, -weight, bias), definition(2 * x, -weight, bias))


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx_holds_the_operations(pre_dispatch: bool) -> None:
    x, weight, bias = arguments()
    graph = make_fx(conv, pre_dispatch=pre_dispatch)(x, weight, bias)
    torch.testing.assert_close(graph(2 * x, -weight, bias), definition(2 * x, -weight, bias))


def test_the_operations_compile_in_one_graph_with_gradients() -> None:
    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=True)
    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = conv(x, weight, bias)
        y = ops.attention(y, y, y, None, 4)
        y = ops.add_layer_norm(y, y, bias, bias)
        return ops.grouped_mlp(y, weight.reshape(24, 9, 1), None, weight.reshape(36, 6, 1), bias, 4)

    for batch in (3, 2):
        tensors = [t.requires_grad_() for t in arguments(torch.float64)]
        x = tensors[0][:batch]
        expected, actual = layer._torchdynamo_orig_callable(x, *tensors[1:]), layer(x, *tensors[1:])
        torch.testing.assert_close(actual, expected)
        gradients = (torch.autograd.grad(y.square().sum(), tensors) for y in (actual, expected))
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("strict", [False, True])
def test_export_holds_the_operations(strict: bool) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return conv(x, weight, bias)

    x, weight, bias = arguments()
    shapes = ({0: torch.export.Dim("batch", min=2)}, None, None)
    exported = torch.export.export(Module(), (x, weight, bias), dynamic_shapes=shapes, strict=strict)
    torch.testing.assert_close(exported.module()(x[:2], -weight, bias), definition(x[:2], -weight, bias))


def test_fake_and_meta_tensors_only_propagate_shapes() -> None:
    with FakeTensorMode() as mode:
        y = conv(*arguments())
        assert (type(y).__name__, y.shape) == ("FakeTensor", (3, 5, 36))
    fake = [mode.from_tensor(t) for t in arguments()]
    assert conv(*fake).shape == (3, 5, 36)  # outside of the mode too
    meta = arguments(device="meta")
    assert conv(*meta).shape == (3, 5, 36)
    x = meta[0]
    assert ops.attention(x, x, x, torch.zeros(3, 1, 1, 5, device="meta"), 4).shape == x.shape
    assert ops.add_layer_norm(x, x, meta[2][:24], meta[2][:24]).shape == x.shape


def test_operations_are_counted_logged_and_overridden() -> None:
    given = arguments()
    with FlopCounterMode(display=False) as counter:
        conv(*given)
    assert counter.get_total_flops() == 2 * 15 * 36 * 6
    with LoggingMode() as logging:
        torch.testing.assert_close(conv(*given), definition(*given))
    assert any("convolution" in name for name in logging.seen)

    class Count(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.conv1d
            return func(*args, **(kwargs or {}))

    with Count() as count:
        conv(*given)
    assert count.count == 1


@needs_native
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_default_device_has_no_say_over_tensors_that_exist(device: str) -> None:
    given = arguments()
    expected = conv(*given)
    with torch.device(device):
        assert obstacle(*given) is None
        assert torch.equal(conv(*given), expected)
    torch.set_default_device(device)
    try:
        assert torch.equal(conv(*given), expected)
    finally:
        torch.set_default_device(None)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(conv(*given), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_autocast_gives_its_dtype() -> None:
    x, weight, bias = arguments()
    exact = definition(x.double(), weight.double(), bias.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = definition(x, weight, bias)
        for given in (x, x.bfloat16()):  # what an autocast model hands from layer to layer
            actual = conv(given, weight, bias)
            assert actual.dtype == torch.bfloat16
            assert_within_rule(actual, expected, exact)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(conv(x, weight, bias), definition(x, weight, bias))
    with torch.autocast("cuda"):  # has no say over tensors on the CPU
        assert conv(x, weight, bias).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert conv(x, weight, bias).dtype == torch.float32


@pytest.mark.parametrize("which", [0, 1, 2])
def test_tensor_subclasses_are_kept(which: int) -> None:
    given = list(arguments())
    given[which] = given[which].as_subclass(Wrapped)
    y = conv(*given)
    assert type(y) is Wrapped
    torch.testing.assert_close(y.as_subclass(Tensor), definition(*arguments()))
    parameter = torch.nn.Parameter(arguments()[0])
    torch.testing.assert_close(conv(parameter, *arguments()[1:]), definition(*arguments()))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_lazily_negated_and_lazily_zero_tensors(which: int) -> None:
    for lazy in (
        lambda t: torch.complex(t, -t).conj().imag,
        lambda t: torch._efficientzerotensor(tuple(t.shape)),
    ):
        given = list(arguments())
        given[which] = lazy(given[which])
        plain = [t.resolve_neg() + 0 for t in given]
        torch.testing.assert_close(conv(*given), definition(*plain))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_run_on_the_reference(dtype: torch.dtype) -> None:
    given = arguments(dtype)
    assert torch.equal(conv(*given), definition(*given))
    with pytest.raises(
        UnsupportedError, match=rf"grouped_pointwise_conv: cpu: the dtype is {dtype}, .*strict"
    ):
        grouped_pointwise_conv(*given, 4, backend="cpu", strict=True)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "a torch dispatch mode is active": LoggingMode,
    "forward-mode differentiation is active": torch.autograd.forward_ad.dual_level,
    r"autocast to torch\.float16 is active": lambda: torch.autocast("cpu", dtype=torch.float16),
}


@needs_native
@pytest.mark.parametrize("reason", CONTEXTS)
def test_strict_says_which_context_keeps_the_kernel_out(reason: str) -> None:
    with CONTEXTS[reason](), pytest.raises(UnsupportedError, match=reason):
        grouped_pointwise_conv(*arguments(), 4, strict=True)


@needs_native
def test_strict_names_a_transform_and_a_subclass() -> None:
    x, weight, bias = arguments()
    with pytest.raises(UnsupportedError, match=r"torch\.func transform"):
        torch.vmap(lambda t: grouped_pointwise_conv(t, weight, bias, 4, strict=True))(x)
    with pytest.raises(UnsupportedError, match="a tensor is a Wrapped"):
        grouped_pointwise_conv(x.as_subclass(Wrapped), weight, bias, 4, strict=True)
    with pytest.raises(UnsupportedError, match="meta, not on the CPU"):
        grouped_pointwise_conv(*arguments(device="meta"), 4, strict=True)
