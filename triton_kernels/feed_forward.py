"""Pass C: y = layer_norm(activation(x W1^T + b1) W2^T + b2 + x), group by group; or without what follows b2.

     x, one group            hidden chunk                 y, one group            y, all channels
    +----+----+----+  W1^T  +------------+  W2^T     +----+----+----+        +-------+-------+---
    | x0 | x1 | x2 | -----> | activation | --------> | +=   +=   += |  --->  | done  | group |
    +----+----+----+        +------------+           +----+----+----+        +-------+-------+---
     in shared memory    registers, `hidden`          registers: sums         un-normalised; then, with whole
     for all chunks      channels at a time           of one group            rows there, x + LayerNorm

Both convolutions are block-diagonal with the same groups, so group i of y needs group i of x and of the
hidden channels alone. A program holds a tile of x's rows and walks along the hidden channels: a chunk is
made, activated and multiplied into the sums at once, as flash attention does with scores. The hidden tensor,
four times as wide as x, is never in memory.

Tiles are powers of two and 192 channels are not: a group is up to three blocks of columns (192 = 3 x 64),
each with its own operand and sums, since padding to 256 would waste a quarter of the arithmetic.

The sums of one group fit registers, those of all four don't: they wait in y as in pass B (post_attention.py).
Without LayerNorm (`grouped_mlp`), and where programs of whole rows leave multiprocessors idle, a program makes one
group only; `feed_forward` then launches `add_layer_norm` after it. With still fewer rows, or groups
too wide for this kernel (a dense BERT's 768 channels), there are two products with the hidden tensor between
them; it is in the L2 cache then, for few rows make it small.

Base model, per token: 2359 kFLOP (two products of 768 x 3072 / 4) and 3 KB in bfloat16 (x, y): 768 FLOP a
byte, bound by arithmetic. A tile of 128 rows needs 128 FLOP a byte from L2, for weights alone. GELU takes
3072 values a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS
from squeezebert_fast.triton_kernels.activations import activate
from squeezebert_fast.triton_kernels.add_layer_norm import (
    add_layer_norm,
    finish_rows,
    row_blocks,
    rows_at_once,
)
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import grouped_pointwise_conv
from squeezebert_fast.triton_kernels.launching import (
    check_contiguous,
    choose,
    device_of,
    launch,
    one_program_pays,
    power_of_two,
    precision,
    rows_of,
)


class Tile(NamedTuple):
    """How the block is cut, and what runs a program."""

    rows: int
    hidden: int
    warps: int
    stages: int
    capability: int = 8
    """The least major compute capability that it is for: on the others it spills registers."""

    def shared_memory(self, in_per_group: int, out_per_group: int, element_size: int) -> int:
        chunk = (sum(blocks_for(in_per_group)) + sum(blocks_for(out_per_group))) * self.hidden
        return (self.rows * in_per_group + chunk * self.stages) * element_size


TILES = (Tile(128, 64, 8, 2, 9), Tile(128, 32, 8, 2), Tile(64, 64, 4, 2, 9), Tile(64, 32, 4, 3))
TILES_FLOAT32 = (Tile(32, 32, 8, 1),)

WIDEST_GROUP = 384
"""Channels of a group that the kernel holds in registers and shared memory: 3 x 128."""


def blocks_for(channels: int) -> tuple[int, ...]:
    """One to three equal powers of two that cover a group's channels with the least excess, the fewest of them."""
    options = []
    for count in (1, 2, 3):
        block = power_of_two(-(-channels // count))
        options.append((block,) * count)
    return min(options, key=lambda blocks: (sum(blocks), len(blocks)))


@triton.jit
def x_block(x, BLOCK: tl.constexpr, FIRST: tl.constexpr, IN: tl.constexpr):
    """Channels from FIRST on of the rows at the pointers x, [rows, 1]."""
    k = FIRST + tl.arange(0, BLOCK)
    if FIRST + BLOCK <= IN:
        return tl.load(x + k[None, :])
    return tl.load(x + k[None, :], mask=(k < IN)[None, :], other=0.0)


@triton.jit
def into_hidden(
    x,
    weight,
    hidden,
    sums,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
    IN: tl.constexpr,
    HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sums + x (a block of channels from FIRST on) times their columns of the rows `hidden` of weight,
    [HIDDEN, IN].
    """
    k = FIRST + tl.arange(0, BLOCK)
    at = weight + hidden[None, :] * IN + k[:, None]
    if EVEN and FIRST + BLOCK <= IN:
        w = tl.load(at)
    else:
        w = tl.load(at, mask=(k < IN)[:, None] & (hidden < HIDDEN)[None, :], other=0.0)
    return tl.dot(x, w, sums, input_precision=PRECISION)


@triton.jit
def out_of_hidden(
    h,
    weight,
    hidden,
    sums,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
    OUT: tl.constexpr,
    HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sums + h (a chunk of hidden channels) times their columns of the rows from FIRST on of weight, [OUT,
    HIDDEN].
    """
    out = FIRST + tl.arange(0, BLOCK)
    at = weight + out[None, :] * HIDDEN + hidden[:, None]
    if EVEN and FIRST + BLOCK <= OUT:
        w = tl.load(at)
    else:
        w = tl.load(at, mask=(hidden < HIDDEN)[:, None] & (out < OUT)[None, :], other=0.0)
    return tl.dot(h, w, sums, input_precision=PRECISION)


@triton.jit
def store_block(
    sums,
    bias,
    y,
    row,
    rows,
    group,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Columns from FIRST on of a group of y: sums + bias."""
    out = FIRST + tl.arange(0, BLOCK)
    channel = group * OUT + out
    if HAS_BIAS:
        sums += tl.load(bias + channel, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (out < OUT)[None, :]
    tl.store(y + row[:, None] * (GROUPS * OUT) + channel[None, :], sums.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def feed_forward_kernel(
    x,
    weight_in,
    bias_in,
    weight_out,
    bias_out,
    y,
    rows,
    x_stride,
    gamma,
    beta,
    eps,
    IN: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS_IN: tl.constexpr,
    HAS_BIAS_OUT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    IN_BLOCKS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    OUT_BLOCKS: tl.constexpr,
    NORM_BLOCK: tl.constexpr,
    NORM_BLOCKS: tl.constexpr,
    NORM_ROWS: tl.constexpr,
):
    """IN, HIDDEN, OUT: channels of one group. NORMALIZE: all groups in one program, residual and LayerNorm
    after it; else a group each.
    """
    EVEN: tl.constexpr = HIDDEN % BLOCK_HIDDEN == 0
    program = tl.program_id(0)
    if NORMALIZE:
        first_group = 0
        end_group = GROUPS
        first_row = program.to(tl.int64) * BLOCK_ROWS
    else:
        first_group = program % GROUPS
        end_group = first_group + 1
        first_row = (program // GROUPS).to(tl.int64) * BLOCK_ROWS
    row = first_row + tl.arange(0, BLOCK_ROWS)
    read_row = tl.minimum(row, rows - 1)[:, None]
    for group in range(first_group, end_group):
        x_rows = x + read_row * x_stride + group * IN
        x0 = x_block(x_rows, BLOCK_IN, 0, IN)
        if IN_BLOCKS > 1:
            x1 = x_block(x_rows, BLOCK_IN, BLOCK_IN, IN)
        if IN_BLOCKS > 2:
            x2 = x_block(x_rows, BLOCK_IN, 2 * BLOCK_IN, IN)
        y0 = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
        if OUT_BLOCKS > 1:
            y1 = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
        if OUT_BLOCKS > 2:
            y2 = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
        w_in = weight_in + group * HIDDEN * IN
        w_out = weight_out + group * OUT * HIDDEN
        for start in range(0, HIDDEN, BLOCK_HIDDEN):
            hidden = start + tl.arange(0, BLOCK_HIDDEN)
            h = tl.zeros((BLOCK_ROWS, BLOCK_HIDDEN), tl.float32)
            h = into_hidden(x0, w_in, hidden, h, BLOCK_IN, 0, IN, HIDDEN, EVEN, PRECISION)
            if IN_BLOCKS > 1:
                h = into_hidden(x1, w_in, hidden, h, BLOCK_IN, BLOCK_IN, IN, HIDDEN, EVEN, PRECISION)
            if IN_BLOCKS > 2:
                h = into_hidden(x2, w_in, hidden, h, BLOCK_IN, 2 * BLOCK_IN, IN, HIDDEN, EVEN, PRECISION)
            if HAS_BIAS_IN:
                h += tl.load(bias_in + group * HIDDEN + hidden, mask=hidden < HIDDEN, other=0.0).to(
                    tl.float32
                )[None, :]
            # past the last hidden channel weights and bias are masked to 0, and every activation of 0 is 0
            h = activate(h, ACTIVATION, x.dtype.element_ty == tl.float32).to(x.dtype.element_ty)
            y0 = out_of_hidden(h, w_out, hidden, y0, BLOCK_OUT, 0, OUT, HIDDEN, EVEN, PRECISION)
            if OUT_BLOCKS > 1:
                y1 = out_of_hidden(h, w_out, hidden, y1, BLOCK_OUT, BLOCK_OUT, OUT, HIDDEN, EVEN, PRECISION)
            if OUT_BLOCKS > 2:
                y2 = out_of_hidden(
                    h, w_out, hidden, y2, BLOCK_OUT, 2 * BLOCK_OUT, OUT, HIDDEN, EVEN, PRECISION
                )
        store_block(y0, bias_out, y, row, rows, group, BLOCK_OUT, 0, OUT, GROUPS, HAS_BIAS_OUT)
        if OUT_BLOCKS > 1:
            store_block(y1, bias_out, y, row, rows, group, BLOCK_OUT, BLOCK_OUT, OUT, GROUPS, HAS_BIAS_OUT)
        if OUT_BLOCKS > 2:
            store_block(
                y2, bias_out, y, row, rows, group, BLOCK_OUT, 2 * BLOCK_OUT, OUT, GROUPS, HAS_BIAS_OUT
            )
    if NORMALIZE:
        finish_rows(
            y, x, x_stride, first_row, rows, gamma, beta, eps,
            GROUPS * OUT, NORM_BLOCK, NORM_BLOCKS, BLOCK_ROWS, NORM_ROWS,
        )  # fmt: skip


def _tiles(x: Tensor) -> tuple[Tile, ...]:
    return TILES_FLOAT32 if x.dtype is torch.float32 else TILES


def fused_tile(
    x: Tensor, rows: int, groups: int, in_per_group: int, out_per_group: int, *, normalize: bool
) -> Tile | None:
    """The tile of the kernel that makes all groups of a row tile in one program (`normalize`) or each in its own, or
    None where it doesn't serve.
    """
    if max(in_per_group, out_per_group) > WIDEST_GROUP:
        return None
    device = device_of(x)

    def programs(tile: Tile) -> int:
        return -(-rows // tile.rows) * (1 if normalize else groups)

    def fits(tile: Tile) -> bool:
        shared = tile.shared_memory(in_per_group, out_per_group, x.element_size())
        return shared <= device.shared_memory and tile.capability <= device.capability

    tile = choose(_tiles(x), device, programs, fits)
    if tile is None:
        return None
    if normalize:
        return tile if one_program_pays(programs(tile), groups, device) else None
    return tile if 2 * programs(tile) > device.multiprocessors else None


def _launch(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    norm: tuple[Tensor, Tensor, float] | None,
    tile: Tile,
) -> Tensor:
    check_contiguous(weight_in, bias_in, weight_out, bias_out, *(norm or ())[:2])
    x_rows = rows_of(x)
    rows, out_channels = x_rows.shape[0], weight_out.shape[0]
    in_per_group, hidden_per_group, out_per_group = (
        weight_in.shape[1],
        weight_out.shape[1],
        out_channels // groups,
    )
    y = torch.empty((*x.shape[:-1], out_channels), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    gamma, beta, eps = norm or (x, x, 0.0)
    in_blocks, out_blocks = blocks_for(in_per_group), blocks_for(out_per_group)
    norm_cut = row_blocks(out_channels)
    launch(
        feed_forward_kernel,
        triton.cdiv(rows, tile.rows) * (1 if norm else groups),
        x,
        tile.warps,
        tile.stages,
    )(
        x_rows,
        weight_in,
        bias_in,
        weight_out,
        bias_out,
        y,
        rows,
        x_rows.stride(0),
        gamma,
        beta,
        eps,
        IN=in_per_group,
        HIDDEN=hidden_per_group,
        OUT=out_per_group,
        GROUPS=groups,
        HAS_BIAS_IN=bias_in is not None,
        HAS_BIAS_OUT=bias_out is not None,
        ACTIVATION=FUSED_ACTIVATIONS[activation],
        NORMALIZE=norm is not None,
        PRECISION=precision(x.dtype),
        BLOCK_ROWS=tile.rows,
        BLOCK_HIDDEN=min(tile.hidden, power_of_two(hidden_per_group)),
        BLOCK_IN=in_blocks[0],
        IN_BLOCKS=len(in_blocks),
        BLOCK_OUT=out_blocks[0],
        OUT_BLOCKS=len(out_blocks),
        NORM_BLOCK=norm_cut.block,
        NORM_BLOCKS=norm_cut.blocks,
        NORM_ROWS=rows_at_once(out_channels, tile.rows, tile.warps),
    )
    return y


def grouped_mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """`conv(activation(conv(x, weight_in, bias_in)), weight_out, bias_out)`, both with the same groups.

    x: [..., channels]; weight_in: [hidden, channels / groups, 1]; weight_out: [out_channels, hidden / groups,
    1]; biases: [hidden] and [out_channels], or None; dtypes and activation as in `grouped_pointwise_conv`.
    tile: run the one kernel with this tile, whatever the number of rows.

    Returns [..., out_channels] in x's dtype, contiguous.
    """
    rows = x.numel() // x.shape[-1]
    tile = tile or fused_tile(
        x, rows, groups, weight_in.shape[1], weight_out.shape[0] // groups, normalize=False
    )
    if tile is None:
        hidden = grouped_pointwise_conv(x, weight_in, bias_in, groups, activation)
        return grouped_pointwise_conv(hidden, weight_out, bias_out, groups)
    return _launch(x, weight_in, bias_in, weight_out, bias_out, groups, activation, None, tile)


def feed_forward(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """`layer_norm(grouped_mlp(x) + x) * gamma + beta`.

    x: [..., channels]; weight_out: [channels, hidden / groups, 1]; gamma, beta: [channels], contiguous; the
    rest as in `grouped_mlp`. tile: run the one kernel with this tile, whatever the number of rows.

    Returns [..., channels] in x's dtype, contiguous.
    """
    rows = x.numel() // x.shape[-1]
    tile = tile or fused_tile(
        x, rows, groups, weight_in.shape[1], weight_out.shape[0] // groups, normalize=True
    )
    if tile is None:
        y = grouped_mlp(x, weight_in, bias_in, weight_out, bias_out, groups, activation)
        return add_layer_norm(y, x, gamma, beta, eps)
    return _launch(x, weight_in, bias_in, weight_out, bias_out, groups, activation, (gamma, beta, eps), tile)
