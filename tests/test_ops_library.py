"""The operations of the torch.library: what torch.compile and torch.export put into their graphs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.backends import BACKENDS, Backend, cpu
from squeezebert_fast.ops.differentiable import schema_of
from tests.gradient_helpers import Random

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

LIBRARY = torch.ops.squeezebert_fast


def samples() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """By name, an operation and arguments for it."""
    cases: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    seed = torch.tensor(7)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        random, parameter = Random(0, dtype), Random(1)
        x, weight, bias = random(2, 5, 8), parameter(12, 4, 1), parameter(12)
        out, gamma, beta = parameter(6, 6, 1), parameter(8), parameter(8)
        mask, attends = torch.zeros(2, 1, 1, 5), torch.tensor([True, False])[:, None, None, None]
        linear, linear_out = parameter(12, 4), parameter(6, 6)
        cases |= {
            f"linear {name}": (LIBRARY.grouped_pointwise_conv, (x, linear, bias, 2, "gelu")),
            f"frozen linear {name}": (LIBRARY.grouped_pointwise_conv, (x.detach(), linear, None, 2, None)),
            f"linear projection {name}": (LIBRARY.qkv_projection, (x, *[linear, bias] * 3, 2)),
            f"linear mlp {name}": (LIBRARY.grouped_mlp, (x, linear, bias, linear_out, None, 2, "silu")),
            f"conv {name}": (LIBRARY.grouped_pointwise_conv, (x, weight, bias, 2, "gelu")),
            f"plain conv {name}": (LIBRARY.grouped_pointwise_conv, (x, weight, None, 2, None)),
            f"frozen conv {name}": (LIBRARY.grouped_pointwise_conv, (x.detach(), weight, None, 2, None)),
            f"projection {name}": (
                LIBRARY.qkv_projection,
                (x, weight, bias, parameter(12, 4, 1), None, parameter(12, 4, 1), bias, 2),
            ),
            f"frozen projection {name}": (
                LIBRARY.qkv_projection,
                (x, weight.detach(), bias, *[weight.detach(), None] * 2, 2),
            ),
            f"mlp {name}": (LIBRARY.grouped_mlp, (x, weight, bias, out, None, 2, "silu")),
            f"attention {name}": (LIBRARY.attention, (x, x, x, mask, 2, 0.0, None, attends)),
            f"dropped attention {name}": (LIBRARY.attention, (x, x, x.detach(), None, 2, 0.5, seed)),
            f"norm {name}": (LIBRARY.add_layer_norm, (x, x, gamma, beta, 1e-5, 0.0, None)),
            f"dropout {name}": (LIBRARY.dropout, (x, 0.5, seed)),
            f"no dropout {name}": (LIBRARY.dropout, (x, 0.0, None)),
            f"dropped norm {name}": (LIBRARY.add_layer_norm, (x, x.detach(), gamma, beta, 1e-5, 0.5, seed)),
        }
    return cases


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", samples())
def test_opcheck_finds_nothing(case: str) -> None:
    operation, arguments = samples()[case]
    torch.library.opcheck(operation, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck_finds_nothing_in_the_backwards() -> None:
    random = Random(2)
    x, weight, bias, out, gamma = (
        t.detach() for t in (random(2, 5, 8), random(12, 4, 1), random(12), random(6, 6, 1), random(8))
    )
    rows = torch.ones(2, 5)
    cases: list[tuple[Any, tuple[Any, ...]]] = []
    for last, needs in itertools.product([(1,), ()], ([True] * 5, [False, True, False, True, False])):
        weight, out = weight.reshape(12, 4, *last), out.reshape(6, 6, *last)
        cases += [
            (
                LIBRARY.grouped_pointwise_conv_backward,
                (torch.ones(2, 5, 12), x, weight, bias, 2, "gelu", needs[:3]),
            ),
            (
                LIBRARY.qkv_projection_backward,
                (*[torch.ones(2, 5, 12)] * 2, None, x, *[weight] * 3, 2, [*needs, False, False]),
            ),
            (
                LIBRARY.grouped_mlp_backward,
                (torch.ones(2, 5, 6), x, weight, bias, out, None, 2, "relu", [*needs[:4], False]),
            ),
            (
                LIBRARY.attention_backward,
                (x, x, x, x, None, torch.ones(2, 2, 5, 2), 2, 0.5, torch.tensor(3), needs[:3]),
            ),
            (
                LIBRARY.add_layer_norm_backward,
                (x, x, rows, rows, gamma, 0.5, torch.tensor(3), torch.float32, needs[:4]),
            ),
            (LIBRARY.dropout_backward, (x, 0.5, torch.tensor(3), needs[:1])),
        ]
    for operation, arguments in cases:
        torch.library.opcheck(operation, arguments)


FLOAT32_CASES = [case for case in samples() if case.endswith("float32") and "frozen" not in case]


def results_and_gradients(operation: Any, arguments: tuple[Any, ...], dtype: torch.dtype) -> list[Tensor]:
    """Of the tensors that are [2, 5, 8], which are x and what stands beside it, in `dtype`; all else as it is."""
    made: dict[int, Tensor] = {}

    def argument(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != (2, 5, 8):
            return value
        return made.setdefault(id(value), value.detach().to(dtype).requires_grad_(value.requires_grad))

    results = operation(*[argument(value) for value in arguments])
    first = results[0] if isinstance(results, tuple) else results
    weights = torch.linspace(-1, 1, first.numel()).reshape(first.shape)
    wanted = [tensor for tensor in made.values() if tensor.requires_grad]
    return [first.detach(), *torch.autograd.grad(first, wanted, weights.half().to(first.dtype))]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("case", FLOAT32_CASES)
def test_other_dtypes_are_computed_in_float32(case: str, dtype: torch.dtype) -> None:
    """`ops` refuses them, but an exported program meets them: it is moved to one, or runs under autocast."""
    operation, arguments = samples()[case]
    if dtype is torch.float16:  # the same numbers in both
        arguments = tuple(
            a.detach().half().float().requires_grad_(a.requires_grad)
            if isinstance(a, Tensor) and a.shape == (2, 5, 8)
            else a
            for a in arguments
        )
    expected = results_and_gradients(operation, arguments, torch.float32)
    actual = results_and_gradients(operation, arguments, dtype)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype is dtype
        torch.testing.assert_close(a.float(), e, rtol=2e-3, atol=2e-3)  # what is kept is rounded to float16


def norm_gradients(
    mean: Tensor, reciprocal: Tensor, gamma: Tensor, needs: list[bool], total: Tensor, grad: Tensor
) -> tuple[Tensor | None, ...]:
    return LIBRARY.add_layer_norm_backward(
        grad, total, mean, reciprocal, gamma, 0.0, None, total.dtype, needs
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_backward_is_given_may_lie_in_any_layout(dtype: torch.dtype) -> None:
    """As hooks on saved tensors may give it back."""
    random = Random(4)
    x, gamma = random(7, 8).detach(), random(8).detach()
    grad = random(7, 8).detach().to(dtype)
    _, total, mean, reciprocal = LIBRARY.add_layer_norm(
        x.to(dtype), x.to(dtype), gamma, gamma, 1e-5, 0.0, None
    )
    for needs in ([True] * 4, [False, False, True, True]):
        run = partial(norm_gradients, mean, reciprocal, gamma, needs)
        expected = run(total, grad)
        for other in (run(total.t().contiguous().t(), grad), run(total, grad.t().contiguous().t())):
            for a, e in zip(other, expected, strict=True):
                assert (a is None) == (e is None)
                assert a is None or torch.equal(a, e)


def block(
    x: Tensor, weight: Tensor, bias: Tensor, into: Tensor, out: Tensor, gamma: Tensor, p: float = 0.0
) -> Tensor:
    x = ops.dropout(x, p, strict=True)
    q, k, v = ops.qkv_projection(x, weight, bias, weight.neg(), None, weight, bias, 2, strict=True)
    y = ops.attention(q, k, v, None, 4, p, strict=True)
    y = ops.grouped_pointwise_conv(y, weight, bias, 2, strict=True)
    y = ops.add_layer_norm(y, x, gamma, gamma, 1e-12, p, strict=True)
    return ops.grouped_mlp(y, into, None, out, bias, 2, strict=True)


def leaves(seed: int = 3, last: tuple[int, ...] = (1,)) -> list[Tensor]:
    random = Random(seed)
    weights = random(16, 8, *last), random(24, 8, *last), random(16, 12, *last)
    return [random(3, 5, 16), weights[0], random(16), *weights[1:], random(16)]


def graphs() -> tuple[Callable[..., Any], list[str]]:
    """A compiler that runs AOTAutograd, and the operations it saw."""
    from torch._dynamo.backends.common import aot_autograd

    seen: list[str] = []

    def record(graph: Any, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    return aot_autograd(fw_compiler=record), seen


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("last", [(1,), ()])
def test_a_graph_has_the_kernels_of_forward_and_backward(
    last: tuple[int, ...], autocast: bool, p: float
) -> None:
    torch._dynamo.reset()
    compiler, seen = graphs()
    compiled = torch.compile(block, backend=compiler, fullgraph=True)
    tensors, results = leaves(last=last), []
    for run in (block, compiled):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = run(*tensors, p)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), tensors)))
    tolerance = {"rtol": 0.05, "atol": 0.5} if autocast else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(results[1], results[0], **tolerance)
    for name in (
        "grouped_pointwise_conv",
        "qkv_projection",
        "attention",
        "add_layer_norm",
        "grouped_mlp",
        "dropout",
    ):
        assert f"squeezebert_fast.{name}.default" in seen
        assert f"squeezebert_fast.{name}_backward.default" in seen


def test_a_graph_draws_a_new_mask_each_time_it_runs() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    tensors = leaves()
    torch.manual_seed(0)
    first, second = compiled(*tensors, 0.5), compiled(*tensors, 0.5)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(compiled(*tensors, 0.5), first)


@pytest.mark.parametrize("last", [(1,), ()])
def test_one_graph_for_any_number_of_sequences(last: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=True)
    x, *parameters = leaves(last=last)
    for given in (x, x[:2], torch.cat([x, x], 1)):
        torch.testing.assert_close(compiled(given, *parameters), block(given, *parameters))


def test_a_transform_within_a_graph_is_given_pytorchs_operations() -> None:
    torch._dynamo.reset()
    x, *parameters = (t.detach() for t in leaves())

    def slope(x: Tensor) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            y = ops.grouped_pointwise_conv(x, parameters[0], parameters[1], 2)
            return ops.add_layer_norm(y, x, parameters[4], parameters[4]).square().sum()

        return torch.func.grad(loss)(x)

    compiled = torch.compile(slope, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), slope(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_has_the_operations(strict: bool) -> None:
    class Block(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return block(*tensors)

    x, *parameters = (t.detach() for t in leaves())
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = (({0: batch}, *[None] * len(parameters)),)
    exported = torch.export.export(Block(), (x, *parameters), dynamic_shapes=shapes, strict=strict)
    assert sum("squeezebert_fast" in str(node.target) for node in exported.graph.nodes) == 6
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for program in (exported, torch.export.load(file)):
        torch.testing.assert_close(program.module()(x[:2], *parameters), block(x[:2], *parameters))


SCHEMAS = """
grouped_pointwise_conv(Tensor x, Tensor weight, Tensor? bias, int groups, str? activation) -> Tensor
grouped_pointwise_conv_backward(Tensor grad, Tensor? x, Tensor? weight, Tensor? bias, int groups, str? activation, \
bool[] needs) -> Tensor[]
qkv_projection(Tensor x, Tensor weight_q, Tensor? bias_q, Tensor weight_k, Tensor? bias_k, Tensor weight_v, \
Tensor? bias_v, int groups) -> (Tensor, Tensor, Tensor)
qkv_projection_backward(Tensor? grad_q, Tensor? grad_k, Tensor? grad_v, Tensor? x, Tensor? weight_q, Tensor? weight_k, \
Tensor? weight_v, int groups, bool[] needs) -> Tensor[]
grouped_mlp(Tensor x, Tensor weight_in, Tensor? bias_in, Tensor weight_out, Tensor? bias_out, int groups, \
str? activation) -> Tensor
grouped_mlp_backward(Tensor grad, Tensor x, Tensor weight_in, Tensor? bias_in, Tensor weight_out, Tensor? bias_out, \
int groups, str? activation, bool[] needs) -> Tensor[]
attention(Tensor q, Tensor k, Tensor v, Tensor? mask, int num_heads, float dropout_p, Tensor? seed, \
Tensor? attends=None) -> (Tensor, Tensor)
attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor statistics, int num_heads, \
float dropout_p, Tensor? seed, bool[] needs) -> Tensor[]
add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps, float dropout_p, Tensor? seed) \
-> (Tensor, Tensor, Tensor, Tensor)
add_layer_norm_backward(Tensor grad, Tensor total, Tensor mean, Tensor reciprocal, Tensor weight, float dropout_p, \
Tensor? seed, ScalarType x_dtype, bool[] needs) -> Tensor[]
dropout(Tensor x, float dropout_p, Tensor? seed) -> Tensor
dropout_backward(Tensor grad, float dropout_p, Tensor? seed, bool[] needs) -> Tensor[]
"""


@pytest.mark.parametrize("schema", SCHEMAS.strip().splitlines())
def test_a_schema_is_the_one_that_saved_programs_have(schema: str) -> None:
    operation = getattr(LIBRARY, schema.partition("(")[0]).default
    assert str(operation._schema) == f"squeezebert_fast::{schema}"


@pytest.mark.parametrize(
    "backend", [b for b in BACKENDS.values() if b.kernels is not None], ids=lambda b: b.name
)
def test_the_kernels_of_every_backend_have_the_schemas(backend: Backend) -> None:
    names = [line.partition("(")[0] for line in SCHEMAS.strip().splitlines()]
    own = [name for name in names if name.removesuffix("_backward") in backend.operations]
    assert len(own) >= 10
    for name in own:
        schema = str(getattr(LIBRARY, name).default._schema)
        assert schema == f"squeezebert_fast::{name}{schema_of(getattr(backend.kernels, name))}"


def test_the_eager_routes_do_not_go_through_the_dispatcher() -> None:
    x, *parameters = leaves()
    with torch.profiler.profile() as profile:
        block(x, *parameters).sum().backward()
        with torch.no_grad():
            block(x, *parameters)
    assert not [event.name for event in profile.events() if event.name.startswith("squeezebert_fast::")]
