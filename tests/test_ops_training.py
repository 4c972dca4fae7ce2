"""Results and gradients of every operation against float64, by the tolerance rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from squeezebert_fast import UnsupportedError, ops
from squeezebert_fast.backends import cpu
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.embeddings import gather_rows
from tests.gradient_helpers import (
    Operation,
    Random,
    alike,
    assert_gradients_within_rule,
    attention_kept,
    doubled,
    dropout_kept,
    norm_kept,
    seed_after,
)
from tests.helpers import assert_within_rule

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

LOWEST = torch.finfo(torch.float32).min
ACTIVATIONS = [None, "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh", "mish"]
STRICT = {"backend": "cpu", "strict": True}
FORMS = {"conv": (1,), "linear": ()}
"""Of a weight: the axes that nn.Conv1d and nn.Linear have after [out_channels, in_channels / groups]."""


def bind(operation: Callable[..., Tensor], *rest: object, **options: object) -> Operation:
    return lambda *tensors: operation(*tensors, *rest, **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_convolution(form: str, groups: int, activation: str | None) -> None:
    random = Random(groups)
    tensors = [random(2, 7, 15), random(21, 15 // groups, *FORMS[form], scale=0.5), random(21)]
    rest = (groups, activation)
    assert_gradients_within_rule(
        bind(ops.grouped_pointwise_conv, *rest, **STRICT),
        bind(reference.grouped_pointwise_conv, *rest),
        tensors,
    )
    assert_gradients_within_rule(
        bind(ops.grouped_pointwise_conv, *rest, **STRICT),
        bind(reference.grouped_pointwise_conv, *rest),
        [*tensors[:2], None],
    )


def projected(module: object, groups: int, **options: object) -> Operation:
    return lambda *tensors: torch.stack(module.qkv_projection(*tensors, groups, **options))  # type: ignore


def projection_arguments(
    random: Random, biased: bool = True, groups: int = 2, form: str = "conv"
) -> list[Tensor | None]:
    shapes = [(10, 8 // groups, *FORMS[form]), (10,)] * 3
    return [random(3, 5, 8), *(random(*s) if biased or len(s) > 1 else None for s in shapes)]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_projection(form: str, groups: int, biased: bool) -> None:
    tensors = projection_arguments(Random(groups), biased, groups, form)
    assert_gradients_within_rule(projected(ops, groups, **STRICT), projected(reference, groups), tensors)


@pytest.mark.parametrize("needed", [n for n in itertools.product([False, True], repeat=7) if any(n)])
@pytest.mark.parametrize("form", FORMS)
def test_any_parts_of_a_projection_may_be_frozen(form: str, needed: tuple[bool, ...]) -> None:
    tensors = projection_arguments(Random(2), form=form)
    tensors = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]  # type: ignore
    assert_gradients_within_rule(projected(ops, 2, **STRICT), projected(reference, 2), tensors)


@pytest.mark.parametrize("used", [u for u in itertools.product([False, True], repeat=3) if any(u)])
@pytest.mark.parametrize("again", [False, True])
def test_a_projection_of_which_a_part_is_used(again: bool, used: tuple[bool, ...]) -> None:
    tensors: list[Tensor] = projection_arguments(Random(3))  # type: ignore[assignment]

    def found(module: object, options: dict[str, object]) -> tuple[Tensor | None, ...]:
        results = module.qkv_projection(*tensors, 2, **options)  # type: ignore[attr-defined]
        total = sum(y.square().sum() for y, use in zip(results, used, strict=True) if use)
        first = torch.autograd.grad(total, tensors, allow_unused=True, create_graph=again)
        if not again:
            return first
        second = sum(g.square().sum() for g in first if g is not None)
        return torch.autograd.grad(second, tensors, allow_unused=True)

    for actual, expected in zip(found(ops, STRICT), found(reference, {}), strict=True):
        if actual is None or expected is None:  # zeros, for PyTorch's convolution of a part that isn't used
            other = expected if actual is None else actual
            assert other is None or not other.any()
        else:
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("form", "form_out"), [("conv", "conv"), ("linear", "linear"), ("linear", "conv")])
def test_feed_forward_block(
    form: str, form_out: str, groups: int, biased: bool, activation: str | None
) -> None:
    random = Random(groups)
    tensors = [
        random(3, 5, 20),
        random(36, 20 // groups, *FORMS[form], scale=0.5),
        random(36) if biased else None,
        random(28, 36 // groups, *FORMS[form_out], scale=0.5),
        random(28) if biased else None,
    ]
    assert_gradients_within_rule(
        bind(ops.grouped_mlp, groups, activation, **STRICT),
        bind(reference.grouped_mlp, groups, activation),
        tensors,
    )


@pytest.mark.parametrize("needed", [n for n in itertools.product([False, True], repeat=5) if any(n)])
def test_any_parts_of_a_feed_forward_block_may_be_frozen(needed: tuple[bool, ...]) -> None:
    random = Random(1)
    tensors = [random(7, 8), random(12, 4, 1), random(12), random(10, 6, 1), random(10)]
    tensors = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
    assert_gradients_within_rule(
        bind(ops.grouped_mlp, 2, "gelu", **STRICT), bind(reference.grouped_mlp, 2, "gelu"), tensors
    )


def masks(batch: int, heads: int, queries: int, keys: int) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    padding = torch.zeros(batch, 1, 1, keys)
    padding[0, ..., keys // 2 :] = LOWEST
    padding[-1] = LOWEST  # a sequence without a token
    rows = torch.zeros(1, 1, queries, keys)
    rows[:, :, queries // 2] = LOWEST  # a query that attends to nothing
    return {
        "none": None,
        "padding": padding,
        "a row of nothing": rows,
        "of every head": torch.randn(batch, heads, queries, keys, generator=generator),
        "one for all": torch.randn(keys, generator=generator),
        "one value": torch.ones(batch, 1, 1, 1),
        "transposed": torch.randn(keys, queries, generator=generator).T,
    }


@pytest.mark.parametrize("mask", masks(1, 1, 1, 1))
@pytest.mark.parametrize(
    ("batch", "heads", "size", "queries", "keys"),
    [(2, 3, 5, 4, 7), (1, 1, 1, 1, 1), (3, 2, 16, 9, 9), (1, 2, 33, 67, 130)],
)
def test_attention(batch: int, heads: int, size: int, queries: int, keys: int, mask: str) -> None:
    random, added = Random(heads), masks(batch, heads, queries, keys)[mask]
    tensors = [random(batch, n, heads * size) for n in (queries, keys, keys)]

    def wide(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = None if added is None else added.to(q.dtype)
        return reference.attention(q, k, v, own, heads)

    assert_gradients_within_rule(bind(ops.attention, added, heads, **STRICT), wide, tensors)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("value", [LOWEST, -float("inf")])
def test_queries_that_attend_to_nothing_have_zeros_and_no_gradient(value: float, backend: str) -> None:
    random, attends = Random(6), torch.tensor([True, False, True, False])[:, None]
    tensors = [random(2, n, 10) for n in (4, 7, 7)]
    added = torch.zeros(4, 7).masked_fill(~attends, value)
    if backend == "reference":  # whose zeros hide what isn't finite, but not from PyTorch's gradient
        added = torch.zeros(4, 7)

    def wide(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attends * reference.attention(q, k, v, None, 2)

    operation = bind(ops.attention, added, 2, attends=attends, backend=backend, strict=True)
    assert_gradients_within_rule(operation, wide, tensors)


def test_attention_to_keys_that_are_minus_infinity() -> None:
    causal = torch.full((6, 6), -float("inf")).triu(1)
    random = Random(5)
    tensors = [random(2, 6, 8) for _ in range(3)]

    def wide(*qkv: Tensor) -> Tensor:
        return reference.attention(*qkv, causal.to(qkv[0].dtype), 2)

    assert_gradients_within_rule(bind(ops.attention, causal, 2, **STRICT), wide, tensors)


@pytest.mark.parametrize("needed", [n for n in itertools.product([False, True], repeat=3) if any(n)])
def test_queries_keys_or_values_may_be_frozen(needed: tuple[bool, ...]) -> None:
    random = Random(3)
    tensors = [random(2, 5, 6).detach().requires_grad_(n) for n in needed]
    assert_gradients_within_rule(
        bind(ops.attention, None, 3, **STRICT), bind(reference.attention, None, 3), tensors
    )


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_attention_with_dropout_is_that_of_its_mask(p: float) -> None:
    random = Random(4)
    tensors = [random(2, n, 21) for n in (5, 11, 11)]
    kept = attention_kept(seed_after(9, p), 2, 3, 5, 11, p)

    def ours(*qkv: Tensor) -> Tensor:
        torch.manual_seed(9)
        return ops.attention(*qkv, None, 3, p, **STRICT)  # type: ignore[arg-type]

    def by_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        probabilities = reference.attention_scores(q, k, None, 3).softmax(-1) * kept.to(q.dtype)
        return (probabilities @ v.unflatten(-1, (3, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)

    assert_gradients_within_rule(ours, by_mask, tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("mask", ["none", "padding", "of every head"])
@pytest.mark.parametrize("keys", [37, 600])
def test_attention_among_tokens_that_are_alike(keys: int, mask: str, p: float, dtype: torch.dtype) -> None:
    """There a query's gradient is a small difference: what is rounded in between shows."""
    random, heads = Random(keys, dtype), 2
    tensors = [alike(random, 2, n, 64 * heads) for n in (23, keys, keys)]
    added, kept = masks(2, heads, 23, keys)[mask], attention_kept(seed_after(9, p), 2, heads, 23, keys, p)
    added = None if added is None else added[:1].to(dtype)  # of the sequence that has tokens

    def ours(*qkv: Tensor) -> Tensor:
        torch.manual_seed(9)
        return ops.attention(*qkv, added, heads, p, **STRICT)  # type: ignore[arg-type]

    def definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = reference.attention_scores(q, k, None if added is None else added.to(q.dtype), heads)
        probabilities = scores.softmax(-1) * kept.to(q.dtype)
        return (probabilities @ v.unflatten(-1, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)

    assert_gradients_within_rule(ours, definition, tensors)


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 64), (2, 1, 100), (6,)])
def test_add_layer_norm(shape: tuple[int, ...], eps: float) -> None:
    random = Random(len(shape))
    tensors = [random(*shape), random(*shape), random(shape[-1]), random(shape[-1])]
    assert_gradients_within_rule(
        bind(ops.add_layer_norm, eps, **STRICT), bind(reference.add_layer_norm, eps), tensors
    )


@pytest.mark.parametrize("needed", [n for n in itertools.product([False, True], repeat=4) if any(n)])
def test_any_arguments_of_add_layer_norm_may_be_frozen(needed: tuple[bool, ...]) -> None:
    random = Random(6)
    tensors = [random(4, 9), random(4, 9), random(9), random(9)]
    tensors = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
    assert_gradients_within_rule(bind(ops.add_layer_norm, **STRICT), reference.add_layer_norm, tensors)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_add_layer_norm_with_dropout_is_that_of_its_mask(p: float) -> None:
    random = Random(7)
    tensors = [random(3, 5, 24), random(3, 5, 24), random(24), random(24)]
    kept = norm_kept(seed_after(8, p), (3, 5, 24), p)

    def ours(*given: Tensor) -> Tensor:
        torch.manual_seed(8)
        return ops.add_layer_norm(*given, 1e-12, p, **STRICT)  # type: ignore[arg-type]

    def by_mask(x: Tensor, *others: Tensor) -> Tensor:
        return reference.add_layer_norm(x * kept.to(x.dtype), *others)

    assert_gradients_within_rule(ours, by_mask, tensors)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_is_that_of_its_mask(p: float, dtype: torch.dtype) -> None:
    kept = dropout_kept(seed_after(8, p), (3, 5, 27), p)

    def ours(x: Tensor) -> Tensor:
        torch.manual_seed(8)
        return ops.dropout(x, p, **STRICT)

    assert_gradients_within_rule(ours, lambda x: x * kept.to(x.dtype), [Random(7, dtype)(3, 5, 27)])


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_embeddings_add_up_the_gradients_of_equal_ids(padding_idx: int | None) -> None:
    random = Random(8)
    ids = torch.tensor([[3, 1, 1, 4, 3, 0], [5, 1, 2, 2, 2, 3]])
    at, kinds = torch.arange(6)[None], torch.tensor([[0], [1]])
    tensors = [random(7, 12), random(9, 12), random(2, 12), random(12), random(12)]

    def by_rows(words: Tensor, positions: Tensor, types: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = words[ids]
        if padding_idx is not None:
            rows = torch.where((ids == padding_idx)[..., None], rows.detach(), rows)
        total = rows + positions[at] + types[kinds]
        return torch.nn.functional.layer_norm(total, (12,), weight, bias, 1e-12)

    def ours(*tables: Tensor) -> Tensor:
        return ops.embeddings(ids, at, kinds, *tables, 1e-12, padding_idx, **STRICT)  # type: ignore[arg-type]

    assert_gradients_within_rule(ours, by_rows, tensors)


@pytest.mark.parametrize("padding_idx", [None, 1, -4])
@pytest.mark.parametrize("ids_dtype", [torch.int64, torch.int32])
def test_the_gradient_of_a_large_table_has_pytorchs_bits(
    ids_dtype: torch.dtype, padding_idx: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(5000, 96, generator=generator).requires_grad_()
    ids = torch.randint(0, 5000, (7, 40), generator=generator).to(ids_dtype)
    ids[0], ids[1] = 1, 4996
    weights = torch.randn(7, 40, 96, generator=generator)
    channels = torch.ones(96)

    def gradient(rows: Tensor, create_graph: bool = False) -> Tensor:
        y = reference.add_layer_norm(rows, torch.zeros_like(rows), channels, channels)
        return torch.autograd.grad((y * weights).sum(), table, create_graph=create_graph)[0]

    ours = gather_rows(ids, table, padding_idx)
    theirs = torch.nn.functional.embedding(ids, table, padding_idx)
    assert torch.equal(ours, theirs)
    assert ours.grad_fn.name() == "_RowsBackward"
    assert torch.equal(gradient(ours), gradient(theirs))
    again = [
        torch.autograd.grad(gradient(rows, create_graph=True).square().sum(), table)[0]
        for rows in (
            gather_rows(ids, table, padding_idx),
            torch.nn.functional.embedding(ids, table, padding_idx),
        )
    ]
    assert torch.equal(*again)


def test_tables_of_other_dtypes_and_without_gradients_are_pytorchs() -> None:
    ids = torch.tensor([[1, 2]])
    for table in (torch.randn(4, 8).double().requires_grad_(), torch.randn(4, 8).bfloat16().requires_grad_()):
        assert gather_rows(ids, table, None).grad_fn.name() == "EmbeddingBackward0"
    assert gather_rows(ids, torch.randn(4, 8), None).grad_fn is None


NON_CONTIGUOUS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "of every other": lambda t: torch.stack([t, t.neg()], -1).flatten(-2)[..., ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", NON_CONTIGUOUS)
def test_inputs_that_are_not_contiguous(layout: str) -> None:
    random, change = Random(10), NON_CONTIGUOUS[layout]
    x, weight, bias, out = random(3, 6, 8), random(12, 4, 1), random(12), random(8, 6, 1)
    gamma, beta = random(8), random(8)

    def layer(operations: object, *tensors: Tensor) -> Tensor:
        x, weight, bias, out, gamma, beta = tensors
        f = operations
        first, other, last = weight[:8], weight[4:], weight[2:10]
        qkv = f.qkv_projection(change(x), first, gamma, other, None, last, beta, 2)  # type: ignore[attr-defined]
        y = f.attention(*map(change, qkv), None, 2)  # type: ignore[attr-defined]
        y = f.add_layer_norm(change(y), change(x), gamma, beta)  # type: ignore[attr-defined]
        h = f.grouped_pointwise_conv(change(y), weight, bias, 2, "gelu")  # type: ignore[attr-defined]
        y = f.grouped_pointwise_conv(change(h), out, None, 2)  # type: ignore[attr-defined]
        return change(f.grouped_mlp(change(y), weight, bias, out, None, 2))  # type: ignore[attr-defined]

    tensors = [x, weight, bias, out, gamma, beta]
    actual, same = (torch.autograd.grad(layer(f, *tensors).square().sum(), tensors) for f in (ops, reference))
    wide = doubled(tensors)
    exact = torch.autograd.grad(layer(reference, *wide).square().sum(), wide)  # type: ignore[arg-type]
    for a, s, e in zip(actual, same, exact, strict=True):
        assert_within_rule(a, s, e, whole_model=True)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_gradients_without_tokens_are_zero(shape: tuple[int, ...]) -> None:
    random = Random(11)
    x, weight, gamma = random(*shape), random(8, 4, 1), random(8)
    y = ops.attention(*ops.qkv_projection(x, *[weight, gamma] * 3, 2), None, 2, 0.5)
    y = ops.add_layer_norm(y, x, gamma, gamma, dropout_p=0.5)
    y = ops.grouped_mlp(ops.grouped_pointwise_conv(y, weight, gamma, 2), weight, gamma, weight, None, 2)
    assert y.shape == shape
    y.sum().backward()
    for tensor in (x, weight, gamma):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


def test_attention_to_no_keys_is_zero() -> None:
    random = Random(12)
    q, none = random(2, 3, 8), random(2, 0, 8)
    y = ops.attention(q, none, none, None, 2, **STRICT)  # type: ignore[arg-type]
    assert torch.equal(y, ops.reference.attention(q, none, none, None, 2))
    y.sum().backward()
    assert q.grad is not None
    assert not q.grad.any()


def test_only_what_the_backward_reads_is_kept() -> None:
    random = Random(12)
    x, weight, bias, gamma = random(2, 64, 16), random(64, 8, 1), random(64), random(16)
    out, mask = random(16, 32, 1), torch.zeros(2, 1, 1, 64)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        for run, most in (
            (lambda: ops.grouped_pointwise_conv(x, weight, bias, 2, "gelu"), x.numel()),
            (lambda: ops.qkv_projection(x, *[weight, bias] * 3, 2), x.numel()),
            (lambda: ops.qkv_projection(x.detach(), *[weight.detach(), bias] * 3, 2), 0),
            (lambda: ops.grouped_mlp(x, weight, bias, out, None, 2), x.numel()),
            # two numbers a row of scores, and neither scores nor the result
            (
                lambda: ops.attention(x, x, x, mask, 4, 0.1),
                x.numel() + 2 * 2 * 4 * 64 + mask.numel() + 1,
            ),
            (lambda: ops.add_layer_norm(x, x, gamma, gamma, dropout_p=0.1), x.numel() + 2 * 2 * 64 + 1),
            (lambda: ops.dropout(x, 0.1), 1),
        ):
            kept.clear()
            run()
            parameters = {t.data_ptr() for t in (weight, bias, out, gamma)}
            storages = {t.data_ptr(): t.numel() for t in kept if t.data_ptr() not in parameters}
            assert sum(storages.values()) <= most


@pytest.mark.parametrize("operation", ["conv", "projection", "mlp", "attention", "norm"])
@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_equal_the_references(form: str, operation: str) -> None:
    random, last = Random(13), FORMS[form]
    tensors: list[Tensor | None]
    ours: Operation
    if operation == "conv":
        tensors = [random(5, 8), random(6, 4, *last), random(6)]
        ours, theirs = (bind(f.grouped_pointwise_conv, 2, "gelu") for f in (ops, reference))
    elif operation == "projection":
        tensors = projection_arguments(random, form=form)
        ours, theirs = projected(ops, 2), projected(reference, 2)
    elif operation == "mlp":
        tensors = [random(5, 8), random(12, 4, *last), random(12), random(6, 6, *last), random(6)]
        ours, theirs = (bind(f.grouped_mlp, 2, "silu") for f in (ops, reference))
    elif operation == "attention":
        tensors = [random(2, 5, 8), random(2, 4, 8), random(2, 4, 8)]
        ours, theirs = (bind(f.attention, None, 2) for f in (ops, reference))
    else:
        tensors = [random(5, 8), random(5, 8), random(8), random(8)]
        ours, theirs = (bind(f.add_layer_norm, 1e-5) for f in (ops, reference))

    def penalty(operation: Operation, tensors: list[Tensor | None]) -> tuple[Tensor, ...]:
        # of tensors that depend on one another, and a result that is used twice
        y = operation(*(None if t is None else t * (1 + 0.1 * t.mean()) for t in tensors))
        first = torch.autograd.grad((y.square() + y).sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)

    actual, same, exact = penalty(ours, tensors), penalty(theirs, tensors), penalty(theirs, doubled(tensors))
    for a, s, e in zip(actual, same, exact, strict=True):
        assert_within_rule(a, s, e)


def test_a_second_derivative_through_dropout() -> None:
    random = Random(14)
    x, residual, gamma, beta = random(4, 16), random(4, 16), random(16), random(16)
    kept = norm_kept(seed_after(3), (4, 16), 0.5)

    def penalty(y: Tensor, x: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.manual_seed(3)
    actual = penalty(ops.add_layer_norm(x, residual, gamma, beta, dropout_p=0.5), x)
    same = penalty(reference.add_layer_norm(x * kept, residual, gamma, beta), x)
    wide: list[Tensor] = doubled([x, residual, gamma, beta])  # type: ignore[assignment]
    exact = penalty(reference.add_layer_norm(wide[0] * kept, *wide[1:]), wide[0])
    assert_within_rule(actual, same, exact)

    kept = dropout_kept(seed_after(3), (4, 16), 0.5)
    cubes = penalty(ops.dropout(x, 0.5) ** 2, x)
    assert_within_rule(cubes, penalty((x * kept) ** 2, x), penalty((wide[0] * kept) ** 2, wide[0]))

    y = ops.attention(x[None], x[None], x[None], None, 2, 0.5)
    with pytest.raises(UnsupportedError, match=r"attention: dropout_p is 0\.5, and only without dropout"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.autograd.grad(y.sum(), x)


def test_a_mask_that_needs_a_gradient_gets_the_references() -> None:
    random = Random(15)
    q, mask = random(2, 5, 8), random(2, 1, 1, 5)
    actual = torch.autograd.grad(ops.attention(q, q, q, mask, 2).square().sum(), [q, mask])
    expected = torch.autograd.grad(reference.attention(q, q, q, mask, 2).square().sum(), [q, mask])
    torch.testing.assert_close(actual, expected)
    with pytest.raises(UnsupportedError, match="attention: cpu: the mask needs a gradient"):
        ops.attention(q, q, q, mask, 2, **STRICT)  # type: ignore[arg-type]
    with torch.no_grad():
        ops.attention(q, q, q, mask, 2, **STRICT)  # type: ignore[arg-type]
