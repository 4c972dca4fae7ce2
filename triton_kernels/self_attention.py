"""Pass A: attention of x to itself, with the projections to q, k and v inside.

    x, rows of a block, one group of channels wide  -- head's rows of Wq, Wk, Wv -->  q, k, v  -- attend.py -->  context

q, k and v are never in memory: a grouped convolution gives a head's q, k and v from the inputs of one group. But each
tile of queries projects all keys and values again. Against that, projecting first writes and reads three rows of
channels for every token. With t tiles of queries, recomputing costs (t - 1) x 4 x channels x channels / groups FLOP a
token, projecting first 6 x channels elements of traffic, 12 x channels bytes in 16 bit. At 60 % of the 790 TFLOP/s
and the 4.3 TB/s measured on an H200, 110 FLOP take as long as a byte, so recomputing wins while
(t - 1) x channels / groups <= 330: two tiles, 256 tokens, in the base model; one tile, 128 tokens, with a single
group. That is `recomputing_pays`. Heads of more than 64 channels, heads that lie across groups, or projections with
different group counts, always project first (qkv_projection.py, attention.py).

Programs of one sequence's heads are neighbours, so that heads of a group share its rows of x in L2.

Base model, per token, S tokens a sequence: projections 885 kFLOP, scores and values 3072 x S FLOP; 3 KB in
bfloat16 (x, context).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import MAX_HEAD_SIZE
from squeezebert_fast.triton_kernels.attend import (
    WIDEST_PROJECTED,
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
from squeezebert_fast.triton_kernels.attention import attention
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import grouped_pointwise_conv, grouped_product
from squeezebert_fast.triton_kernels.launching import (
    block_for,
    check_contiguous,
    device_of,
    launch,
    power_of_two,
    precision,
    rows_of,
)
from squeezebert_fast.triton_kernels.qkv_projection import qkv_projection

RECOMPUTING_LIMIT = 330
"""FLOP a byte between the two ceilings, times 3: see above."""


@triton.jit(
    do_not_specialize=[
        "tokens", "query_tiles", "attends_batch_stride", "attends_head_stride", "attends_query_stride",
    ]
)  # fmt: skip
def self_attention_kernel(
    x,
    q_weight,
    k_weight,
    v_weight,
    q_bias,
    k_bias,
    v_bias,
    mask,
    attends,
    sequences,
    context,
    tokens,
    query_tiles,
    x_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_query_stride,
    mask_key_stride,
    attends_batch_stride,
    attends_head_stride,
    attends_query_stride,
    scale,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    IN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """x: rows of HEADS * HEAD channels, sequence after sequence. IN: channels of one group, which holds whole
    heads.
    """
    program = tl.program_id(0)
    head = program % HEADS
    sequence = program // HEADS // query_tiles
    query = program // HEADS % query_tiles * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    first, tokens = stretch_of(sequences, sequence, tokens, PACKED)
    if not PACKED:
        mask += sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    if program // HEADS % query_tiles * BLOCK_QUERIES < tokens:
        group = head * HEAD // IN
        x += first * x_stride + group * IN
        channel = tl.arange(0, BLOCK_HEAD)
        of_head = channel < HEAD
        weight_row = (head * HEAD + tl.minimum(channel, HEAD - 1))[None, :] * IN
        read_query = tl.minimum(query, tokens - 1).to(tl.int64)
        (q_tile,) = grouped_product(
            x + read_query[:, None] * x_stride,
            (q_weight + weight_row,),
            IN,
            PRECISION,
            BLOCK_QUERIES,
            BLOCK_HEAD,
            1,
            BLOCK_IN,
        )
        if HAS_BIAS:
            q_tile += tl.load(q_bias + head * HEAD + channel, mask=of_head, other=0.0).to(tl.float32)[None, :]
            k_added = tl.load(k_bias + head * HEAD + channel, mask=of_head, other=0.0).to(tl.float32)[None, :]
            v_added = tl.load(v_bias + head * HEAD + channel, mask=of_head, other=0.0).to(tl.float32)[None, :]
        if HEAD < BLOCK_HEAD:  # columns beyond the head repeat its last one
            q_tile = tl.where(of_head[None, :], q_tile, 0.0)
        q_tile = q_tile.to(x.dtype.element_ty)
        sums = tl.zeros((BLOCK_QUERIES, BLOCK_HEAD), tl.float32)
        largest = tl.full((BLOCK_QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_QUERIES,), tl.float32)
        step = tl.arange(0, BLOCK_IN)
        for keys_from in range(0, tokens, BLOCK_KEYS):
            # keys past the last repeat it: `attend` gives them the score -inf
            key = tl.minimum(keys_from + tl.arange(0, BLOCK_KEYS), tokens - 1).to(tl.int64)
            rows = x + key[:, None] * x_stride + step[None, :]
            k_tile = tl.zeros((BLOCK_KEYS, BLOCK_HEAD), tl.float32)
            v_tile = tl.zeros((BLOCK_KEYS, BLOCK_HEAD), tl.float32)
            for start in range(0, IN, BLOCK_IN):
                at = weight_row + start + step[:, None]
                if IN % BLOCK_IN == 0:
                    x_tile = tl.load(rows + start)
                    k_weight_tile = tl.load(k_weight + at)
                    v_weight_tile = tl.load(v_weight + at)
                else:
                    within = start + step < IN
                    x_tile = tl.load(rows + start, mask=within[None, :], other=0.0)
                    k_weight_tile = tl.load(k_weight + at, mask=within[:, None], other=0.0)
                    v_weight_tile = tl.load(v_weight + at, mask=within[:, None], other=0.0)
                k_tile = tl.dot(x_tile, k_weight_tile, k_tile, input_precision=PRECISION)
                v_tile = tl.dot(x_tile, v_weight_tile, v_tile, input_precision=PRECISION)
            if HAS_BIAS:
                k_tile += k_added
                v_tile += v_added
            sums, largest, total = attend(
                q_tile, k_tile.to(q_tile.dtype), v_tile.to(q_tile.dtype), sums, largest, total, keys_from, tokens,
                mask, mask_query_stride, mask_key_stride, read_query, scale,
                0, 1.0, None, read_query, MASK, False, PRECISION, BLOCK_KEYS,
            )  # fmt: skip
        seen = attending(
            attends,
            sequence,
            head,
            query,
            tokens,
            attends_batch_stride,
            attends_head_stride,
            attends_query_stride,
        )
        store_context(
            sums, total, context, first + query, query < tokens, seen, head * HEAD,
            attends is not None, HEADS * HEAD, HEAD, BLOCK_HEAD,
        )  # fmt: skip


def recomputing_pays(tile: Tile, longest: int, in_per_group: int, head: int) -> bool:
    """Whether projecting keys and values once for every tile of queries beats writing and reading them."""
    tiles = -(-longest // tile.queries)
    return head <= WIDEST_PROJECTED and (tiles - 1) * in_per_group <= RECOMPUTING_LIMIT


def self_attention(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    groups: int | Sequence[int],
    num_heads: int,
    mask: Tensor | None,
    sequences: Sequences | None = None,
    *,
    attends: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Attention of x to itself: q, k and v are grouped pointwise convolutions of x.

    x: [batch, tokens, channels], or [tokens, channels] with `sequences`. weights, biases: of q, k, v, as
    `grouped_pointwise_conv` takes them, [channels, channels / groups, 1] and [channels] or None. groups: of
    all three, or of each. Everything else and the result are as in `attention`. tile: of the kernel with
    projections inside, whatever the number of tokens; groups must then allow it.
    """
    counts = (groups,) * 3 if isinstance(groups, int) else tuple(groups)
    in_per_group = x.shape[-1] // counts[0]
    head = x.shape[-1] // num_heads
    assert head <= MAX_HEAD_SIZE, f"heads of {head} channels, at most {MAX_HEAD_SIZE}"
    assert sequences is None or (mask is None and attends is None), "packed sequences take no mask"
    lined_up = len(set(counts)) == 1 and num_heads % counts[0] == 0 and len({b is None for b in biases}) == 1
    batch = x.shape[0] if sequences is None else sequences[0].shape[0] - 1
    longest = x.shape[1] if sequences is None else sequences[1]
    if x.numel() == 0 or not lined_up:
        fused = None
    else:
        fused = tile or tile_for(x, batch, longest, num_heads, head)
        fused = fused if tile or recomputing_pays(fused, longest, in_per_group, head) else None
    if fused is None:
        if len(set(counts)) == 1:
            q, k, v = qkv_projection(x, weights, biases, counts[0])
        else:
            q, k, v = (
                grouped_pointwise_conv(x, w, b, g) for w, b, g in zip(weights, biases, counts, strict=True)
            )
        return attention(q, k, v, mask, num_heads, attends=attends, sequences=sequences)
    check_contiguous(*weights, *biases)
    offsets = None if sequences is None else sequences[0]
    rows = rows_of(x)
    context = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    query_tiles = triton.cdiv(longest, fused.queries)
    kind, mask_strides = mask_arguments(mask, (batch, num_heads, longest, longest))
    seen, seen_strides = attends_arguments(attends, (batch, num_heads, longest))
    launch(self_attention_kernel, batch * query_tiles * num_heads, x, fused.warps, fused.stages)(
        rows,
        *weights,
        *biases,
        x if mask is None else mask,
        seen,
        offsets,
        context,
        longest,
        query_tiles,
        rows.stride(0),
        *mask_strides,
        *seen_strides,
        1.0 / math.sqrt(head),
        HEADS=num_heads,
        HEAD=head,
        BLOCK_HEAD=power_of_two(head),
        IN=in_per_group,
        HAS_BIAS=biases[0] is not None,
        MASK=kind,
        PACKED=offsets is not None,
        PRECISION=precision(x.dtype),
        BLOCK_QUERIES=fused.queries,
        BLOCK_KEYS=fused.keys,
        BLOCK_IN=block_for(in_per_group, fused.depth_for(kind, device_of(x), x.element_size())),
    )
    return context
