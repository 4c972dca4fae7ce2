"""What the kernels of attention share: one block of keys by online softmax, masks, and how the work is cut.

    queries of one head        keys, block by block
    +-----+                   +-----+-----+-----+
    |  q  |        q k^T ->   |     | s   |     |    s: scores of one block, in registers only
    |     |                   +-----+-----+-----+
    +-----+                   | k^T   k^T   k^T |    k, v: loaded (attention.py), or projected from the block's rows
    | sum |  <- softmax(s) v  | v     v     v   |          of x (self_attention.py)
    +-----+                   +-----------------+

One program makes the context of `queries` queries of one head of one sequence. Scores never leave registers:
each row keeps its largest score so far and the total of exponentials, and what was summed is rescaled when
the largest grows (online softmax: Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv
2205.14135).

Masks: none; by key (query and head strides of 0: a padding mask), read as one row a block; or any, read as a
tile. A key whose mask is the dtype's lowest number gets the lowest number as its score, as adding it does in
float32 and bfloat16: a row of nothing else attends to all keys equally, in float16 too. A row of -inf alone
is 0 / 0, NaN, as in PyTorch. `attends` says besides which rows have a context at all, as
`scaled_dot_product_attention` has it: that of the others is stored as zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.dropout import Dropout, keep_factors
from squeezebert_fast.triton_kernels.launching import Device, choose, device_of, power_of_two

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

    def depth_for(self, mask: str, device: Device, element_size: int) -> int:
        """Channels of x that one step of a projection takes, with a mask of this kind: half as many where the operands
        of a step would spill registers.
        """
        depth = self.depth // 2 if device.capability < 9 and mask != "any" else self.depth
        return depth * 2 // element_size

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
def attending(attends, sequence, head, query, queries, batch_stride, head_stride, query_stride):
    """Which of the rows `query` have a context, and are not past the last.

    attends: None, or a byte for each query. Addresses are made here, after the loop over keys, which has no register to
    spare for them.
    """
    inside = query < queries
    if attends is None:
        return inside
    else:
        at = attends + sequence.to(tl.int64) * batch_stride + head * head_stride + query * query_stride
        return tl.load(at, mask=inside, other=0) != 0


@triton.jit
def store_context(
    sums, total, context, row, inside, seen, channel,
    BLIND: tl.constexpr, CHANNELS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Rows `row` of the context, [.., CHANNELS], from `channel` on. BLIND: some are not seen, and 0."""
    head = tl.arange(0, BLOCK_HEAD)
    y = (sums / total[:, None]).to(context.dtype.element_ty)
    at = context + row[:, None] * CHANNELS + (channel + head)[None, :]
    within = (head < HEAD)[None, :]
    tl.store(at, y, mask=seen[:, None] & within)
    if BLIND:
        # a store of its own: what is chosen from before a store is chosen in the sums' layout, whose rows would take
        # registers throughout the loop
        tl.store(at, tl.zeros_like(y), mask=(inside & (seen == 0))[:, None] & within)


@triton.jit
def stretch_of(sequences, sequence, tokens, PACKED: tl.constexpr):
    """(first row, number of rows) of a sequence: between its offsets, or `tokens` each."""
    if PACKED:
        first = tl.load(sequences + sequence).to(tl.int64)
        return first, (tl.load(sequences + sequence + 1).to(tl.int64) - first).to(tl.int32)
    return sequence.to(tl.int64) * tokens, tokens


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


def mask_arguments(mask: Tensor | None, shape: tuple[int, int, int, int]) -> tuple[str, list[int]]:
    """(kind, strides by batch, head, query and key), 0 where the mask broadcasts."""
    if mask is None:
        return "none", [0, 0, 0, 0]
    strides = list(mask.expand(shape).stride())
    return ("by key" if strides[2] == 0 else "any"), strides


def attends_arguments(
    attends: Tensor | None, shape: tuple[int, int, int]
) -> tuple[Tensor | None, tuple[int, ...]]:
    """(As bytes, strides by batch, head and query), 0 where it broadcasts. shape: [batch, heads, queries]."""
    if attends is None:
        return None, (0, 0, 0)
    rows = attends.expand(*shape, 1).view(torch.uint8)
    return rows, rows.stride()[:3]
