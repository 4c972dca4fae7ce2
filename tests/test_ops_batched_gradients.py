"""Gradients in batches: a vectorized jacobian and torch.vmap differentiate a kernel's result by many seeds at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForMaskedLM,
    SqueezeBertForSequenceClassification,
    UnsupportedError,
    ops,
    patch,
)
from squeezebert_fast.patching.linear import MANY_ROWS
from tests.engine_helpers import needs_native
from tests.gradient_helpers import Random

pytestmark = needs_native
SEEDS = 3
IDS = torch.tensor([[1, 2, 0, 2, 4]])


class Operation(NamedTuple):
    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def embedded(*tables: Tensor) -> Tensor:
    return ops.embeddings(IDS, torch.arange(5)[None], torch.zeros_like(IDS), *tables, padding_idx=0)


OPERATIONS = {
    "grouped_pointwise_conv": Operation(
        partial(ops.grouped_pointwise_conv, groups=2, activation="gelu"), ((2, 5, 8), (12, 4, 1), (12,))
    ),
    "qkv_projection": Operation(partial(ops.qkv_projection, groups=2), ((2, 5, 8), *[(8, 4, 1), (8,)] * 3)),
    "grouped_mlp": Operation(
        partial(ops.grouped_mlp, groups=2), ((2, 5, 8), (16, 4, 1), (16,), (8, 8, 1), (8,))
    ),
    "attention": Operation(partial(ops.attention, num_heads=2), ((2, 5, 8), (2, 7, 8), (2, 7, 8))),
    "dropout": Operation(ops.dropout, ((2, 5, 8),)),
    "add_layer_norm": Operation(
        partial(ops.add_layer_norm, dropout_p=0.5), ((2, 5, 8), (2, 5, 8), (8,), (8,))
    ),
    "embeddings": Operation(embedded, ((6, 8), (5, 8), (2, 8), (8,), (8,))),
}


def test_every_operation_is_here() -> None:
    assert OPERATIONS.keys() == set(ops.__all__) - {"reference"}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("way", ["is_grads_batched", "torch.vmap"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_of_gradients_is_each_of_them(name: str, way: str, create_graph: bool) -> None:
    random = Random(1)
    tensors = [random(*shape) for shape in OPERATIONS[name].shapes]
    results = OPERATIONS[name].call(*tensors)
    results = results if isinstance(results, tuple) else (results,)
    seeds = tuple(random(SEEDS, *y.shape).detach() for y in results)

    def gradients(*seed: Tensor, **how: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            results, tensors, seed, retain_graph=True, create_graph=create_graph, **how
        )

    each = [gradients(*(seed[at] for seed in seeds)) for at in range(SEEDS)]
    batched = (
        torch.vmap(gradients)(*seeds) if way == "torch.vmap" else gradients(*seeds, is_grads_batched=True)
    )
    for found, *expected in zip(batched, *each, strict=True):
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert batched[0].requires_grad == each[0][0].requires_grad


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("cls", [SqueezeBertForMaskedLM, SqueezeBertForSequenceClassification])
def test_a_patched_models_jacobian_may_be_vectorized(cls: type[Any], create_graph: bool) -> None:
    torch.manual_seed(0)
    config = SqueezeBertConfig(
        vocab_size=80,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
        max_position_embeddings=MANY_ROWS,
    )
    model = patch(cls(config).eval())
    embedded = torch.randn(1, MANY_ROWS, 64)  # so many rows that the heads' layers are the kernels'

    def logits(inputs_embeds: Tensor) -> Tensor:
        found = model(inputs_embeds=inputs_embeds).logits.flatten(0, -2)
        return found[:2, :3]

    of_rows = partial(torch.autograd.functional.jacobian, logits, embedded, create_graph=create_graph)
    torch.testing.assert_close(of_rows(vectorize=True), of_rows(), rtol=1e-4, atol=1e-5)


def test_attention_with_dropout_takes_one_gradient_at_a_time() -> None:
    """Only the kernel can draw its mask."""
    random = Random(2)
    q = random(1, 3, 8)
    y = ops.attention(q, q, q, num_heads=2, dropout_p=0.5)
    with pytest.raises(UnsupportedError, match=r"attention: dropout_p is 0\.5, and only without dropout"):
        torch.autograd.grad(y, q, torch.ones(SEEDS, *y.shape), is_grads_batched=True)
