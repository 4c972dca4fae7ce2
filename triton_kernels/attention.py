"""softmax(q k^T / sqrt(head size) + mask) v on given q, k and v.

A program loads its queries once, and keys and values block by block (the picture is in attend.py). Programs of one
sequence's heads are neighbours, so that what they share of a row of q, k and v comes from L2.

For a backward (attention_backward.py) each row keeps two numbers, its largest score and the reciprocal of its
total of exponentials. (Their logarithm alone wouldn't do: a row whose scores are all the lowest number has no
digits left for it.)

Base model, per token, S tokens a sequence: 3072 x S FLOP, and 6 KB in bfloat16 (q, k, v, context).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import MAX_HEAD_SIZE
from squeezebert_fast.triton_kernels.attend import (
    Sequences,
    Tile,
    attend,
    attending,
    attends_arguments,
    mask_arguments,
    store_context,
    stretch_of,
    tile_for,
)
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout
from squeezebert_fast.triton_kernels.launching import channels_contiguous, launch, power_of_two, precision


@triton.jit(
    do_not_specialize=[
        "queries", "keys", "query_tiles", "threshold", "dropout_scale",
        "attends_batch_stride", "attends_head_stride", "attends_query_stride",
    ]
)  # fmt: skip
def attention_kernel(
    q,
    k,
    v,
    mask,
    attends,
    sequences,
    context,
    statistics,
    queries,
    keys,
    query_tiles,
    q_batch_stride,
    q_stride,
    k_batch_stride,
    k_stride,
    v_batch_stride,
    v_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_query_stride,
    mask_key_stride,
    attends_batch_stride,
    attends_head_stride,
    attends_query_stride,
    scale,
    threshold: tl.uint32,
    dropout_scale,
    seed,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    MASK: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP_STATISTICS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """q, k, v: rows of HEADS * HEAD channels. PACKED: sequences follow each other, batch strides are unused,
    and there is neither dropout nor KEEP_STATISTICS: [sequences, HEADS, queries, 2] in float32.
    """
    program = tl.program_id(0)
    head = program % HEADS
    sequence = program // HEADS // query_tiles
    query = program // HEADS % query_tiles * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    first, queries = stretch_of(sequences, sequence, queries, PACKED)
    if PACKED:
        keys = queries
        q += first * q_stride
        k += first * k_stride
        v += first * v_stride
    else:
        q += sequence.to(tl.int64) * q_batch_stride
        k += sequence.to(tl.int64) * k_batch_stride
        v += sequence.to(tl.int64) * v_batch_stride
        mask += sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    if program // HEADS % query_tiles * BLOCK_QUERIES < queries:
        # a short sequence of a packed batch has fewer tiles
        channel = tl.arange(0, BLOCK_HEAD)
        # channels beyond the head are zero in q, so that what k holds there counts for nothing: 0 in both, no NaN
        of_head = (channel < HEAD)[None, :]
        read_query = tl.minimum(query, queries - 1).to(tl.int64)
        q_tile = tl.load(
            q + read_query[:, None] * q_stride + (head * HEAD + channel)[None, :], mask=of_head, other=0.0
        )
        sums = tl.zeros((BLOCK_QUERIES, BLOCK_HEAD), tl.float32)
        largest = tl.full((BLOCK_QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_QUERIES,), tl.float32)
        head_row = (sequence.to(tl.int64) * HEADS + head) * queries + query
        for keys_from in range(0, keys, BLOCK_KEYS):
            key = keys_from + tl.arange(0, BLOCK_KEYS)
            inside = (key < keys)[:, None] & of_head
            key_row = key.to(tl.int64)[:, None]
            at_channel = (head * HEAD + channel)[None, :]
            k_tile = tl.load(k + key_row * k_stride + at_channel, mask=inside, other=0.0)
            v_tile = tl.load(v + key_row * v_stride + at_channel, mask=inside, other=0.0)
            sums, largest, total = attend(
                q_tile, k_tile, v_tile, sums, largest, total, keys_from, keys,
                mask, mask_query_stride, mask_key_stride, read_query, scale,
                threshold, dropout_scale, seed, head_row, MASK, DROPOUT, PRECISION, BLOCK_KEYS,
            )  # fmt: skip
        seen = attending(
            attends,
            sequence,
            head,
            query,
            queries,
            attends_batch_stride,
            attends_head_stride,
            attends_query_stride,
        )
        store_context(
            sums, total, context, first + query, query < queries, seen, head * HEAD,
            attends is not None, HEADS * HEAD, HEAD, BLOCK_HEAD,
        )  # fmt: skip
        if KEEP_STATISTICS:
            scaled = largest * scale if MASK == "none" else largest
            # of a blind row, exp2(scores - inf) * 0 in the backward: it has no gradient, and gives none
            scaled = tl.where(seen, scaled, float("inf"))
            tl.store(statistics + head_row * 2, scaled, mask=query < queries)
            tl.store(statistics + head_row * 2 + 1, tl.where(seen, 1.0 / total, 0.0), mask=query < queries)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    *,
    attends: Tensor | None = None,
    sequences: Sequences | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """`softmax(q k^T / sqrt(head_size) + mask) v`, head by head.

    q: [batch, queries, channels]; k, v: [batch, keys, channels]; float32, bfloat16 or float16, heads of at
    most MAX_HEAD_SIZE channels. mask: None, or of any of these dtypes, broadcastable to [batch, heads,
    queries, keys], whatever its strides. attends: None, or bool, broadcastable to [batch, heads, queries, 1],
    whatever its strides: the context of the other queries is zero. With `sequences`, q, k and v are packed,
    [tokens, channels], and these two are None. tile: in place of the table's choice.

    Returns the context, of q's shape and dtype, contiguous.
    """
    return _attention(q, k, v, mask, attends, num_heads, NO_DROPOUT, None, sequences, tile)


def attention_with_statistics(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    dropout: Dropout,
    *,
    attends: Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """`dropout(softmax(q k^T / sqrt(head_size) + mask)) v`, and what `attention_backward` needs besides.

    Arguments are those of `attention`. Returns the context and, float32 [batch, heads, queries, 2], each row's
    largest score and the reciprocal of its total of exponentials; inf and 0 where it doesn't attend.
    """
    shape = (q.shape[0], num_heads, q.shape[1], 2)
    statistics = torch.empty(shape, dtype=torch.float32, device=q.device)
    return _attention(q, k, v, mask, attends, num_heads, dropout, statistics, None, tile), statistics


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    attends: Tensor | None,
    num_heads: int,
    dropout: Dropout,
    statistics: Tensor | None,
    sequences: Sequences | None,
    tile: Tile | None,
) -> Tensor:
    q, k, v = (channels_contiguous(t) for t in (q, k, v))
    channels = q.shape[-1]
    head = channels // num_heads
    assert head <= MAX_HEAD_SIZE, f"heads of {head} channels, at most {MAX_HEAD_SIZE}"
    assert sequences is None or (mask is None and attends is None), "packed sequences take no mask"
    if sequences is None:
        batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
        longest, offsets = queries, None
        batch_strides = [t.stride(0) for t in (q, k, v)]
    else:
        offsets, longest = sequences
        batch = offsets.shape[0] - 1
        queries = keys = longest
        batch_strides = [0, 0, 0]
    context = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if context.numel() > 0:
        tile = tile or tile_for(q, batch, longest, num_heads, head)
        query_tiles = triton.cdiv(longest, tile.queries)
        kind, mask_strides = mask_arguments(mask, (batch, num_heads, queries, keys))
        seen, seen_strides = attends_arguments(attends, (batch, num_heads, queries))
        launch(attention_kernel, batch * query_tiles * num_heads, q, tile.warps, tile.stages)(
            q,
            k,
            v,
            q if mask is None else mask,
            seen,
            offsets,
            context,
            statistics,
            queries,
            keys,
            query_tiles,
            *(
                stride
                for t, by_batch in zip((q, k, v), batch_strides, strict=True)
                for stride in (by_batch, t.stride(-2))
            ),
            *mask_strides,
            *seen_strides,
            1.0 / math.sqrt(head),
            *dropout.arguments,
            HEADS=num_heads,
            HEAD=head,
            BLOCK_HEAD=power_of_two(head),
            MASK=kind,
            PACKED=offsets is not None,
            DROPOUT=dropout.p > 0.0,
            KEEP_STATISTICS=statistics is not None,
            PRECISION=precision(q.dtype),
            BLOCK_QUERIES=tile.queries,
            BLOCK_KEYS=tile.keys_with(dropout),
        )
    return context
