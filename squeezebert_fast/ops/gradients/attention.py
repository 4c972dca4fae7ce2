"""`attention` on kernels that train. Kept for the backward: the arguments and two numbers a row, no scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.gradients.routes import (
    Differentiable,
    Gradients,
    needed,
    through_definition,
)


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    rows = (q.shape[0], num_heads, q.shape[1], 2)
    return q.new_empty(q.shape), q.new_empty(rows, dtype=torch.float32)


def _backward_fake(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    num_heads: int,
    dropout_p: float,
    seed: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    return needed(needs, grad, [(t.shape, t.dtype) for t in (q, k, v)])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, num_heads, dropout_p, seed = inputs
    _, statistics = output
    ctx.save_for_backward(*tensors, seed, statistics)
    ctx.mark_non_differentiable(statistics)
    ctx.options = num_heads, dropout_p


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor | None, _: Any) -> Gradients:
    if grad is None:
        return (None, None, None)
    *tensors, seed, statistics = ctx.saved_tensors
    return kernel(grad, *tensors, statistics, *ctx.options, seed, ctx.needs_input_grad[:3])


def _definition(ctx: Any, grad: Tensor | None, _: Any) -> Gradients:
    if grad is None:
        return (None, None, None)
    *qkv, mask, _, _ = ctx.saved_tensors
    num_heads, dropout_p = ctx.options
    if dropout_p > 0.0:  # only the kernel can draw its mask
        raise UnsupportedError(
            f"attention: dropout_p is {dropout_p}, and only without dropout can its gradient be differentiated; "
            'backend="reference" can with it'
        )

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = reference.attention_scores(q, k, mask, num_heads)
        return reference.attention_context(scores.to(q.dtype), v)

    return through_definition(attention, qkv, ctx.needs_input_grad[:3], grad)


attention = Differentiable(
    "attention",
    forward=(
        "(Tensor q, Tensor k, Tensor v, Tensor? mask, int num_heads, float dropout_p, Tensor? seed) "
        "-> (Tensor, Tensor)",
        _fake,
    ),
    backward=(
        "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor statistics, int num_heads, "
        "float dropout_p, Tensor? seed, bool[] needs) -> Tensor[]",
        _backward_fake,
    ),
    save=_save,
    gradients=_gradients,
    definition=_definition,
)
