"""The sum of three tables' rows and LayerNorm: what a SqueezeBERT reads its inputs with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.backends.request import gradients_are_recorded, obstacle
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops.add_layer_norm import add_layer_norm


def embeddings(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor,
    words: Tensor,
    positions: Tensor,
    token_types: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-12,
    padding_idx: int | None = None,
    *,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`layer_norm(words[input_ids] + positions[position_ids] + token_types[token_type_ids])`.

    PyTorch gathers the rows, and adds their gradients up in a fixed order; `add_layer_norm` serves the rest. (A patched
    model that infers has all of it in one kernel.)

    Args:
        input_ids, position_ids, token_type_ids: int64 or int32, [batch, tokens], or broadcastable to that.
        words, positions, token_types: [rows, channels], a floating dtype.
        weight, bias: [channels].
        eps: added to the variance.
        padding_idx: a row of `words` that gets no gradient, as in `nn.Embedding`.
        backend, strict: as in `add_layer_norm`.

    Returns:
        [batch, tokens, channels].

    Raises:
        ArgumentError: shapes, dtypes or devices don't fit, or padding_idx is out of range.
        IndexError: an id is out of its table's range (on a GPU, which doesn't say so in time, a CUDA error later).

    >>> ids, table = torch.tensor([[3, 1]]), torch.randn(5, 8)
    >>> embeddings(ids, ids * 0, ids * 0, table, table, table, torch.ones(8), torch.zeros(8)).shape
    torch.Size([1, 2, 8])

    Source: `SqueezeBertEmbeddings` in transformers' `modeling_squeezebert.py`.
    """
    for name, table in (("words", words), ("positions", positions), ("token_types", token_types)):
        if not isinstance(table, Tensor) or table.dim() != 2 or table.shape[1] != words.shape[-1]:
            came = list(table.shape) if isinstance(table, Tensor) else type(table).__name__
            raise ArgumentError(f"{name} is {came}, expected [rows, channels] with the channels of words")
    if padding_idx is not None and not -words.shape[0] <= padding_idx < words.shape[0]:
        raise ArgumentError(f"padding_idx is {padding_idx}, but words has {words.shape[0]} rows")
    rows = gather_rows(input_ids, words, padding_idx)
    others = F.embedding(position_ids, positions) + F.embedding(token_type_ids, token_types)
    return add_layer_norm(rows, others.expand_as(rows), weight, bias, eps, backend=backend, strict=strict)


def gather_rows(ids: Tensor, table: Tensor, padding_idx: int | None) -> Tensor:
    """`F.embedding`, with a gradient that costs less where ours may stand for PyTorch's."""
    if (
        table.device.type == "cpu"
        and table.dtype is torch.float32
        and gradients_are_recorded(table)
        and obstacle(ids, table) is None
    ):
        return _Rows.apply(ids, table, padding_idx)
    return F.embedding(ids, table, padding_idx)


class _Rows(torch.autograd.Function):
    """Rows of a float32 table. Its gradient has zeros in nearly every row, and never writes those.

    It is memory as calloc gives it, of which the operating system makes zeros page by page as they are touched, and
    large pages where it may, since it is numpy's. PyTorch's writes all of them, 94 MB in the base model.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding_idx = table.shape, padding_idx
        return F.embedding(ids, table, padding_idx)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (ids,), (rows, channels) = ctx.saved_tensors, ctx.shape
        padding = None if ctx.padding_idx is None else ctx.padding_idx % rows
        if torch.is_grad_enabled() or obstacle(grad):
            nowhere = -1 if padding is None else padding
            return None, torch.ops.aten.embedding_dense_backward(grad, ids, rows, nowhere, False), None
        gradient = torch.from_numpy(np.zeros((rows, channels), np.float32))
        gradient.index_add_(0, ids.reshape(-1), grad.reshape(-1, channels))
        if padding is not None:
            gradient[padding] = 0.0
        return None, gradient, None
