"""Pass A: softmax(q k^T / sqrt(head size) + mask) v, on given q, k, v, or with their projections inside.

    queries of one head        keys, block by block
    +-----+                   +-----+-----+-----+
    |  q  |        q k^T ->   |     | s   |     |    s: scores of one block, in registers only
    |     |                   +-----+-----+-----+
    +-----+                   | k^T   k^T   k^T |    k, v: loaded, or projected from the block's rows of x, one group of
    | sum |  <- softmax(s) v  | v     v     v   |          channels wide, by the head's rows of Wk and Wv
    +-----+                   +-----------------+

One program makes the context of `queries` queries of one head of one sequence. Scores never leave registers:
each row keeps its largest score so far and the total of exponentials, and what was summed is rescaled when
the largest grows (online softmax: Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv
2205.14135). Programs of one sequence's heads are neighbours, so that heads of a group share its rows of x in
L2.

**With projections** (`self_attention`) q, k and v are never in memory: a grouped convolution gives a head's
q, k and v from the inputs of one group. But each tile of queries projects all keys and values again. Against
that, projecting first writes and reads three rows of channels for every token. With t tiles of queries,
recomputing costs (t - 1) x 4 x channels x channels / groups FLOP a token, projecting first 6 x channels
elements of traffic, 12 x channels bytes in 16 bit. At 60 % of the 790 TFLOP/s and the 4.3 TB/s measured on an
H200, 110 FLOP take as long as a byte, so recomputing wins while (t - 1) x channels / groups <= 330: two
tiles, 256 tokens, in the base model; one tile, 128 tokens, with a single group. That is `recomputing_pays`.
Heads of more than 64 channels, heads that lie across groups, or projections with different group counts,
always project first.

For a backward (attention_backward.py) each row keeps two numbers, its largest score and the reciprocal of its
total of exponentials. (Their logarithm alone wouldn't do: a row whose scores are all the lowest number has no
digits left for it.)

Masks: none; by key (query and head strides of 0: a padding mask), read as one row a block; or any, read as a
tile. A key whose mask is the dtype's lowest number gets the lowest number as its score, as adding it does in
float32 and bfloat16: a row of nothing else attends to all keys equally, in float16 too. A row of -inf alone
is 0 / 0, NaN, as in PyTorch.

Base model, per token, S tokens a sequence: projections 885 kFLOP, scores and values 3072 x S FLOP; 3 KB in
bfloat16 with projections inside (x, context), 6 KB without (q, k, v, context).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import MAX_HEAD_SIZE
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout, keep_factors
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import grouped_pointwise_conv, grouped_product
from squeezebert_fast.triton_kernels.launching import (
    Device,
    block_for,
    channels_contiguous,
    check_contiguous,
    choose,
    device_of,
    launch,
    power_of_two,
    precision,
    rows_of,
)
from squeezebert_fast.triton_kernels.qkv_projection import qkv_projection

RECOMPUTING_LIMIT = 330
"""FLOP a byte between the two ceilings, times 3: see above."""
WIDEST_PROJECTED = 64
"""Channels of a head: queries, keys, values and sums of wider ones spill registers where they are projected inside."""


class Tile(NamedTuple):
    """How attention is cut, and what runs a program."""

    queries: int
    keys: int
    warps: int
    stages: int
    depth: int = 64
    """Channels of x that one step of a projection takes, in elements of 2 bytes."""

    def fits(self, device: Device, head: int, element_size: int) -> bool:
        """Whether the kernels have the shared memory that they take at most, for heads of `head` channels."""
        padded = power_of_two(head)
        # operands of the next steps; on Hopper the one that is multiplied stays beside them until wgmma is done
        buffers = self.stages if device.capability >= 9 else self.stages - 1
        # beside operands, scores: a mask's numbers and probabilities change their layout there
        attention = (self.queries + 2 * self.keys * buffers) * padded + 2 * self.queries * self.keys
        taken = attention
        if head <= WIDEST_PROJECTED:
            projections = (self.keys + 2 * padded) * self.stages * (self.depth * 2 // element_size)
            taken = max(taken, projections)
        return taken * element_size <= device.shared_memory

    def keys_with(self, dropout: Dropout) -> int:
        """Dropout's generator needs registers of its own, so it gets blocks of half as many scores."""
        return max(16, self.keys // 2) if dropout.p > 0.0 else self.keys


TILES = (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(32, 32, 4, 3), Tile(16, 16, 4, 3))
"""From many queries to few. With heads of 128 channels the first fits no card of less than 160 KB: see `Tile.fits`."""
TILES_FLOAT32 = (Tile(32, 32, 8, 2), Tile(16, 16, 4, 2))


@triton.jit
def mask_values(mask, at, inside, OUTSIDE: tl.constexpr = 0.0):
    """What is added to scores, float32, read from the pointers `at`; OUTSIDE where not inside."""
    added = tl.load(at, mask=inside, other=OUTSIDE).to(tl.float32)
    if mask.dtype.element_ty == tl.float16:
        # as float16 the lowest number stays the lowest when a score is added; as float32 only its own does
        added = tl.where(added == -65504.0, -3.4028234663852886e38, added)
    return added


@triton.jit
def attend(
    q, k, v, sums, largest, total, keys_from, keys, mask, mask_query_stride, mask_key_stride, read_query, scale,
    threshold, dropout_scale, seed, dropout_row,
    MASK: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """One block of keys: (sums, largest, total) with it. q: [queries, head], k, v: [keys, head], of one dtype.

    Without a mask, `largest` is that of q k^T, and the scale goes into the exponent's one multiply-add; with
    one, it is that of the masked scores, whose lowest numbers would overflow if multiplied.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    key = keys_from + tl.arange(0, BLOCK_KEYS)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    # keys past the last get -inf: with a mask from that, which costs no comparison a score
    if MASK == "by key":
        added = mask_values(mask, mask + key * mask_key_stride, key < keys, float("-inf"))
        scores = scores * scale + added[None, :]
    elif MASK == "any":
        at = mask + read_query[:, None] * mask_query_stride + key[None, :] * mask_key_stride
        scores = scores * scale + mask_values(mask, at, (key < keys)[None, :], float("-inf"))
    else:
        scores = tl.where((key < keys)[None, :], scores, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    # a row of nothing but -inf so far: -inf - -inf would be NaN, and later keys may have scores
    origin = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    if MASK == "none":
        weights = tl.exp2(scores * (scale * LOG2_E) - (origin * (scale * LOG2_E))[:, None])
        rescale = tl.exp2((largest - origin) * (scale * LOG2_E))
    else:
        weights = tl.exp2((scores - origin[:, None]) * LOG2_E)
        rescale = tl.exp2((largest - origin) * LOG2_E)
    total = total * rescale + tl.sum(weights, 1)
    if DROPOUT:  # of probabilities: the total is over all of them
        weights *= keep_factors(dropout_row, keys_from, threshold, dropout_scale, seed, BLOCK_KEYS)
    sums = tl.dot(weights.to(v.dtype), v, sums * rescale[:, None], input_precision=PRECISION)
    return sums, new_largest, total


@triton.jit
def store_context(
    sums, total, context, row, inside, channel, CHANNELS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr
):  # fmt: skip
    """Rows `row` of the context, [.., CHANNELS], from `channel` on."""
    head = tl.arange(0, BLOCK_HEAD)
    y = sums / total[:, None]
    at = context + row[:, None] * CHANNELS + (channel + head)[None, :]
    tl.store(at, y.to(context.dtype.element_ty), mask=inside[:, None] & (head < HEAD)[None, :])


@triton.jit
def stretch_of(sequences, sequence, tokens, PACKED: tl.constexpr):
    """(first row, number of rows) of a sequence: between its offsets, or `tokens` each."""
    if PACKED:
        first = tl.load(sequences + sequence).to(tl.int64)
        return first, (tl.load(sequences + sequence + 1).to(tl.int64) - first).to(tl.int32)
    return sequence.to(tl.int64) * tokens, tokens


@triton.jit(do_not_specialize=["queries", "keys", "query_tiles", "threshold", "dropout_scale"])
def attention_kernel(
    q,
    k,
    v,
    mask,
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
    if (
        program // HEADS % query_tiles * BLOCK_QUERIES < queries
    ):  # a short sequence of a packed batch has fewer tiles
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
        store_context(
            sums, total, context, first + query, query < queries, head * HEAD, HEADS * HEAD, HEAD, BLOCK_HEAD
        )  # fmt: skip
        if KEEP_STATISTICS:
            scaled = largest * scale if MASK == "none" else largest
            tl.store(statistics + head_row * 2, scaled, mask=query < queries)
            tl.store(statistics + head_row * 2 + 1, 1.0 / total, mask=query < queries)


@triton.jit(do_not_specialize=["tokens", "query_tiles"])
def self_attention_kernel(
    x,
    q_weight,
    k_weight,
    v_weight,
    q_bias,
    k_bias,
    v_bias,
    mask,
    sequences,
    context,
    tokens,
    query_tiles,
    x_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_query_stride,
    mask_key_stride,
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
        store_context(
            sums, total, context, first + query, query < tokens, head * HEAD, HEADS * HEAD, HEAD, BLOCK_HEAD
        )  # fmt: skip


Sequences = tuple[Tensor, int]
"""Packed sequences: int32 offsets [n + 1] of their first tokens, contiguous, and the length of the longest."""


def tile_for(x: Tensor, sequences: int, longest: int, heads: int, head: int) -> Tile:
    """The tile by the number of programs that it makes, not larger than the longest sequence asks for."""
    tiles = TILES_FLOAT32 if x.dtype is torch.float32 else TILES
    asked = [tile for tile in tiles if tile.queries < 2 * longest] or [tiles[-1]]
    device = device_of(x)

    def programs(tile: Tile) -> int:
        return sequences * heads * -(-longest // tile.queries)

    return (
        choose(asked, device, programs, lambda tile: tile.fits(device, head, x.element_size())) or tiles[-1]
    )


def recomputing_pays(tile: Tile, longest: int, in_per_group: int, head: int) -> bool:
    """Whether projecting keys and values once for every tile of queries beats writing and reading them."""
    tiles = -(-longest // tile.queries)
    return head <= WIDEST_PROJECTED and (tiles - 1) * in_per_group <= RECOMPUTING_LIMIT


def mask_arguments(mask: Tensor | None, shape: tuple[int, int, int, int]) -> tuple[str, list[int]]:
    """(kind, strides by batch, head, query and key), 0 where the mask broadcasts."""
    if mask is None:
        return "none", [0, 0, 0, 0]
    strides = list(mask.expand(shape).stride())
    return ("by key" if strides[2] == 0 else "any"), strides


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    *,
    sequences: Sequences | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """`softmax(q k^T / sqrt(head_size) + mask) v`, head by head.

    q: [batch, queries, channels]; k, v: [batch, keys, channels]; float32, bfloat16 or float16, heads of at
    most MAX_HEAD_SIZE channels. mask: None, or of any of these dtypes, broadcastable to [batch, heads,
    queries, keys], whatever its strides. With `sequences`, q, k and v are packed, [tokens, channels], and
    mask is None. tile: in place of the table's choice.

    Returns the context, of q's shape and dtype, contiguous.
    """
    return _attention(q, k, v, mask, num_heads, NO_DROPOUT, None, sequences, tile)


def attention_with_statistics(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    dropout: Dropout,
    *,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """`dropout(softmax(q k^T / sqrt(head_size) + mask)) v`, and what `attention_backward` needs besides.

    Arguments are those of `attention`. Returns the context and, float32 [batch, heads, queries, 2], each row's
    largest score and the reciprocal of its total of exponentials.
    """
    shape = (q.shape[0], num_heads, q.shape[1], 2)
    statistics = torch.empty(shape, dtype=torch.float32, device=q.device)
    return _attention(q, k, v, mask, num_heads, dropout, statistics, None, tile), statistics


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
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
    assert sequences is None or mask is None, "packed sequences take no mask"
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
        launch(attention_kernel, batch * query_tiles * num_heads, q, tile.warps, tile.stages)(
            q,
            k,
            v,
            q if mask is None else mask,
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


def self_attention(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    groups: int | Sequence[int],
    num_heads: int,
    mask: Tensor | None,
    sequences: Sequences | None = None,
    *,
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
    assert sequences is None or mask is None, "packed sequences take no mask"
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
        return attention(q, k, v, mask, num_heads, sequences=sequences)
    check_contiguous(*weights, *biases)
    offsets = None if sequences is None else sequences[0]
    rows = rows_of(x)
    context = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    query_tiles = triton.cdiv(longest, fused.queries)
    kind, mask_strides = mask_arguments(mask, (batch, num_heads, longest, longest))
    launch(self_attention_kernel, batch * query_tiles * num_heads, x, fused.warps, fused.stages)(
        rows,
        *weights,
        *biases,
        x if mask is None else mask,
        offsets,
        context,
        longest,
        query_tiles,
        rows.stride(0),
        *mask_strides,
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
        BLOCK_IN=block_for(in_per_group, fused.depth * 2 // x.element_size()),
    )
    return context
