"""The backward of attention: scores and probabilities once more, block by block, from two numbers a row.

    p = exp(scores - largest) * reciprocal, dropped where the forward dropped      of v = p^T grad
    d = sum over keys of p_before_dropout * dropped(grad v^T), a number a row      of q = s k * scale
    s = p_before_dropout * (dropped(grad v^T) - d)                                 of k = s^T q * scale

Two kernels, so that nothing is added atomically and no scores are in memory (FlashAttention-2, Dao, arXiv
2307.08691): the first takes a tile of queries and walks along the keys, once for d and once for q's gradient;
the second takes a tile of keys and walks along the queries, for those of k and v, with the scores transposed,
so that they are an operand where they are made. Every walk computes scores: nine products in place of five.

FlashAttention takes d from the context, as the sum over channels of grad * context, and saves a walk. But the
context was rounded, to bfloat16 say. Where tokens are alike, as in the last layers, grad v^T - d is a small
difference of large numbers, and that rounding alone was several times as large as q's gradient.

Base model, per token, S tokens a sequence: 13824 x S FLOP, and 17 KB in bfloat16 (q, k, v, grad, twice; three
gradients).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.attend import Tile, mask_arguments, mask_values
from squeezebert_fast.triton_kernels.dropout import Dropout, keep_factors
from squeezebert_fast.triton_kernels.launching import (
    channels_contiguous,
    check_contiguous,
    device_of,
    launch,
    power_of_two,
    precision,
)

QUERY_TILE, KEY_TILE = Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)
"""Of the kernels that make q's gradient, and k's and v's, for heads of up to 64 channels."""
WIDE_QUERY_TILE, WIDE_KEY_TILE = Tile(64, 32, 4, 2), Tile(32, 64, 8, 1)
FLOAT32_TILE = Tile(16, 16, 4, 1)


@triton.jit
def head_rows(x, row, rows, stride, channel, HEAD: tl.constexpr):
    """A tile of one head of x, [row, channel], at the pointer to its first channel; 0 outside."""
    inside = (row < rows)[:, None] & (channel < HEAD)[None, :]
    return tl.load(x + row[:, None] * stride + channel[None, :], mask=inside, other=0.0)


@triton.jit
def probabilities_and_slopes(
    q_tile, grad_tile, k_tile, v, mask, keys_from, key, keys, v_stride, channel, read_query, mask_query_stride,
    mask_key_stride, largest, reciprocal, scale, head_row, threshold, dropout_scale, seed,
    HEAD: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """A tile of queries and one of keys: p before dropout, 0 past the last key, and dropped(grad v^T)."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    v_tile = head_rows(v, key, keys, v_stride, channel, HEAD)
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale
    if MASK == "by key":
        scores += mask_values(mask, mask + key * mask_key_stride, key < keys)[None, :]
    elif MASK == "any":
        at = mask + read_query[:, None] * mask_query_stride + key[None, :] * mask_key_stride
        scores += mask_values(mask, at, (key < keys)[None, :])
    p = tl.exp2((scores - largest[:, None]) * LOG2_E) * reciprocal[:, None]
    of_p = tl.dot(grad_tile, tl.trans(v_tile), input_precision=PRECISION)
    if DROPOUT:
        of_p *= keep_factors(head_row, keys_from, threshold, dropout_scale, seed, BLOCK_KEYS)
    return tl.where((key < keys)[None, :], p, 0.0), of_p


@triton.jit(do_not_specialize=["queries", "keys", "query_tiles", "threshold", "dropout_scale"])
def attention_query_gradient_kernel(
    q,
    k,
    v,
    mask,
    statistics,
    grad,
    of_q,
    d,
    queries,
    keys,
    query_tiles,
    q_batch_stride,
    q_stride,
    k_batch_stride,
    k_stride,
    v_batch_stride,
    v_stride,
    grad_batch_stride,
    grad_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_query_stride,
    mask_key_stride,
    scale,
    threshold: tl.uint32,
    dropout_scale,
    seed,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    MASK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """of_q: contiguous. d: float32 [batch, HEADS, queries], for the other kernel."""
    program = tl.program_id(0)
    head = program % HEADS
    sequence = (program // HEADS // query_tiles).to(tl.int64)
    query = (program // HEADS % query_tiles * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)).to(tl.int64)
    channel = tl.arange(0, BLOCK_HEAD)
    q += sequence * q_batch_stride + head * HEAD
    k += sequence * k_batch_stride + head * HEAD
    v += sequence * v_batch_stride + head * HEAD
    grad += sequence * grad_batch_stride + head * HEAD
    own = sequence * queries * (HEADS * HEAD) + head * HEAD
    mask += sequence * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    head_row = (sequence * HEADS + head) * queries + query
    inside = query < queries
    q_tile = head_rows(q, query, queries, q_stride, channel, HEAD)
    grad_tile = head_rows(grad, query, queries, grad_stride, channel, HEAD)
    largest = tl.load(statistics + head_row * 2, mask=inside, other=0.0)
    reciprocal = tl.load(statistics + head_row * 2 + 1, mask=inside, other=0.0)
    read_query = tl.minimum(query, queries - 1)
    row_d = tl.zeros((BLOCK_QUERIES,), tl.float32)
    for keys_from in range(0, keys, BLOCK_KEYS):
        key = (keys_from + tl.arange(0, BLOCK_KEYS)).to(tl.int64)
        k_tile = head_rows(k, key, keys, k_stride, channel, HEAD)
        p, of_p = probabilities_and_slopes(
            q_tile, grad_tile, k_tile, v, mask, keys_from, key, keys, v_stride, channel, read_query, mask_query_stride,
            mask_key_stride, largest, reciprocal, scale, head_row, threshold, dropout_scale, seed,
            HEAD, MASK, DROPOUT, PRECISION, BLOCK_KEYS,
        )  # fmt: skip
        row_d += tl.sum(p * of_p, 1)
    tl.store(d + head_row, row_d, mask=inside)
    sums = tl.zeros((BLOCK_QUERIES, BLOCK_HEAD), tl.float32)
    for keys_from in range(0, keys, BLOCK_KEYS):
        key = (keys_from + tl.arange(0, BLOCK_KEYS)).to(tl.int64)
        k_tile = head_rows(k, key, keys, k_stride, channel, HEAD)
        p, of_p = probabilities_and_slopes(
            q_tile, grad_tile, k_tile, v, mask, keys_from, key, keys, v_stride, channel, read_query, mask_query_stride,
            mask_key_stride, largest, reciprocal, scale, head_row, threshold, dropout_scale, seed,
            HEAD, MASK, DROPOUT, PRECISION, BLOCK_KEYS,
        )  # fmt: skip
        s = p * (of_p - row_d[:, None])
        sums = tl.dot(s.to(k_tile.dtype), k_tile, sums, input_precision=PRECISION)
    at = of_q + own + query[:, None] * (HEADS * HEAD) + channel[None, :]
    stored = inside[:, None] & (channel < HEAD)[None, :]
    tl.store(at, (sums * scale).to(of_q.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["queries", "keys", "key_tiles", "threshold", "dropout_scale"])
def attention_key_gradient_kernel(
    q,
    k,
    v,
    mask,
    statistics,
    grad,
    d,
    of_k,
    of_v,
    queries,
    keys,
    key_tiles,
    q_batch_stride,
    q_stride,
    k_batch_stride,
    k_stride,
    v_batch_stride,
    v_stride,
    grad_batch_stride,
    grad_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_query_stride,
    mask_key_stride,
    scale,
    threshold: tl.uint32,
    dropout_scale,
    seed,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    MASK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """of_k, of_v: contiguous."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    head = program % HEADS
    sequence = (program // HEADS // key_tiles).to(tl.int64)
    key = (program // HEADS % key_tiles * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)).to(tl.int64)
    channel = tl.arange(0, BLOCK_HEAD)
    q += sequence * q_batch_stride + head * HEAD
    k += sequence * k_batch_stride + head * HEAD
    v += sequence * v_batch_stride + head * HEAD
    grad += sequence * grad_batch_stride + head * HEAD
    mask += sequence * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    first_row = (sequence * HEADS + head) * queries
    k_tile = head_rows(k, key, keys, k_stride, channel, HEAD)
    v_tile = head_rows(v, key, keys, v_stride, channel, HEAD)
    read_key = tl.minimum(key, keys - 1)
    if MASK == "by key":
        added = mask_values(mask, mask + key * mask_key_stride, key < keys)[:, None]
    k_sums = tl.zeros((BLOCK_KEYS, BLOCK_HEAD), tl.float32)
    v_sums = tl.zeros((BLOCK_KEYS, BLOCK_HEAD), tl.float32)
    for queries_from in range(0, queries, BLOCK_QUERIES):
        query = (queries_from + tl.arange(0, BLOCK_QUERIES)).to(tl.int64)
        inside = query < queries
        q_tile = head_rows(q, query, queries, q_stride, channel, HEAD)
        grad_tile = head_rows(grad, query, queries, grad_stride, channel, HEAD)
        # p is 0 for queries past the last, and so is what they add
        largest = tl.load(statistics + (first_row + query) * 2, mask=inside, other=float("inf"))
        reciprocal = tl.load(statistics + (first_row + query) * 2 + 1, mask=inside, other=0.0)
        row_d = tl.load(d + first_row + query, mask=inside, other=0.0)
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale
        if MASK == "by key":
            scores += added
        elif MASK == "any":
            at = mask + query[None, :] * mask_query_stride + read_key[:, None] * mask_key_stride
            scores += mask_values(mask, at, inside[None, :])
        p = tl.exp2((scores - largest[None, :]) * LOG2_E) * reciprocal[None, :]
        of_p = tl.dot(v_tile, tl.trans(grad_tile), input_precision=PRECISION)
        if DROPOUT:
            factors = keep_factors(
                first_row + query, program // HEADS % key_tiles * BLOCK_KEYS, threshold, dropout_scale, seed,
                BLOCK_KEYS, True,
            )  # fmt: skip
            of_p *= factors
            v_sums = tl.dot((p * factors).to(v_tile.dtype), grad_tile, v_sums, input_precision=PRECISION)
        else:
            v_sums = tl.dot(p.to(v_tile.dtype), grad_tile, v_sums, input_precision=PRECISION)
        s = p * (of_p - row_d[None, :])
        k_sums = tl.dot(s.to(q_tile.dtype), q_tile, k_sums, input_precision=PRECISION)
    at = sequence * keys * (HEADS * HEAD) + head * HEAD + key[:, None] * (HEADS * HEAD) + channel[None, :]
    stored = (key < keys)[:, None] & (channel < HEAD)[None, :]
    tl.store(of_k + at, (k_sums * scale).to(of_k.dtype.element_ty), mask=stored)
    tl.store(of_v + at, v_sums.to(of_v.dtype.element_ty), mask=stored)


def tiles_for(q: Tensor, head: int, mask: str, dropout: Dropout) -> tuple[Tile, Tile]:
    """The tiles of the two kernels. mask: its kind, as `mask_arguments` has it."""
    if q.dtype is torch.float32:
        return FLOAT32_TILE, FLOAT32_TILE
    by_queries, by_keys = (QUERY_TILE, KEY_TILE) if head <= 64 else (WIDE_QUERY_TILE, WIDE_KEY_TILE)
    # dropout's generator and a mask's addresses need registers of their own
    if dropout.p > 0.0 or mask == "any":
        by_queries = by_queries._replace(keys=32)
        by_keys = by_keys._replace(queries=16 if mask == "any" else 32)
    elif head <= 64 and device_of(q).capability < 9:  # the code of triton 3.6 spills there with 64
        by_keys = by_keys._replace(queries=32)
    return by_queries, by_keys


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    num_heads: int,
    dropout: Dropout,
    needs: tuple[bool, bool, bool],
    *,
    tiles: tuple[Tile, Tile] | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k and v, each where `needs` has True.

    grad: of the context, [batch, queries, channels], of q's dtype; the others are arguments of
    `attention_with_statistics`, and the statistics that it returns. tiles: of the two kernels, in place of our
    own choice.

    Returns tensors of the shapes and the dtype of q and k, contiguous.
    """
    grad, q, k, v = (channels_contiguous(t) for t in (grad, q, k, v))
    check_contiguous(statistics)
    (batch, queries, channels), keys = q.shape, k.shape[1]
    head = channels // num_heads
    of_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    of_k, of_v = (torch.empty(k.shape, dtype=q.dtype, device=q.device) for _ in range(2))
    if of_q.numel() == 0 or of_k.numel() == 0:
        of_q, of_k, of_v = (t.zero_() for t in (of_q, of_k, of_v))
        return tuple(t if wanted else None for t, wanted in zip((of_q, of_k, of_v), needs, strict=True))
    d = torch.empty((batch, num_heads, queries), dtype=torch.float32, device=q.device)
    kind, mask_strides = mask_arguments(mask, (batch, num_heads, queries, keys))
    by_queries, by_keys = tiles or tiles_for(q, head, kind, dropout)
    added = q if mask is None else mask
    strides = [stride for t in (q, k, v, grad) for stride in (t.stride(0), t.stride(1))]
    scalars = (*strides, *mask_strides, 1.0 / math.sqrt(head), *dropout.arguments)
    constants = {
        "HEADS": num_heads,
        "HEAD": head,
        "BLOCK_HEAD": power_of_two(head),
        "MASK": kind,
        "DROPOUT": dropout.p > 0.0,
        "PRECISION": precision(q.dtype),
    }
    # also where q's gradient isn't wanted: the other kernel needs d
    query_tiles = triton.cdiv(queries, by_queries.queries)
    programs = batch * query_tiles * num_heads
    launch(attention_query_gradient_kernel, programs, q, by_queries.warps, by_queries.stages)(
        q,
        k,
        v,
        added,
        statistics,
        grad,
        of_q,
        d,
        queries,
        keys,
        query_tiles,
        *scalars,
        **constants,
        BLOCK_QUERIES=by_queries.queries,
        BLOCK_KEYS=by_queries.keys,
    )
    if needs[1] or needs[2]:
        key_tiles = triton.cdiv(keys, by_keys.keys)
        programs = batch * key_tiles * num_heads
        launch(attention_key_gradient_kernel, programs, q, by_keys.warps, by_keys.stages)(
            q,
            k,
            v,
            added,
            statistics,
            grad,
            d,
            of_k,
            of_v,
            queries,
            keys,
            key_tiles,
            *scalars,
            **constants,
            BLOCK_QUERIES=by_keys.queries,
            BLOCK_KEYS=by_keys.keys,
        )
    return tuple(t if wanted else None for t, wanted in zip((of_q, of_k, of_v), needs, strict=True))
