"""The gradient of a grouped product's weight and bias: grad^T x, group by group, and the sums of grad's columns.

            block_out                     block_in                    block_in
           +---------+                  +----------+                +----------+
    rows   | grad    |  transposed,     | x        |  block_out     |   sums   |   of one part of the rows
           |         |  block_rows      |          |                +----------+
           +---------+  at a time       +----------+

A program makes up to three blocks of sums of the same rows of x: of 192 input channels a group, 384 x 64 sums are 55
FLOP for each byte from L2, 128 x 64 were 43; of 192 output channels, 192 x 128 are 77 for 43, and of both, 192 x 64
are 48 for 32. Blocks of input channels would share grad, and reach 77 more often; but with the sums of grad's columns
between them ptxas 13.4 lets each product wait for the one before.

The contraction is over rows, of which there are thousands, and the result is small: 768 x 192 sums for 768
channels in 4 groups. So rows are cut into parts, enough for a program on every multiprocessor, each part's sums
go to memory of their own, and parts are added in order. Nothing is added atomically: the same gradient has
the same bits every time on one kind of GPU.

Base model, per token: 295 kFLOP for 768 -> 768 channels in 4 groups, and 3 KB in bfloat16 (grad, x): bound by
memory, like the product itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.blocks import appended, zero_sums
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import Tile
from squeezebert_fast.triton_kernels.launching import (
    block_for,
    blocks_at_once,
    device_of,
    launch,
    precision,
    rows_of,
)

TILES = (Tile(64, 128, 128, 8, 3, 9, blocks=3), Tile(64, 64, 128, 8, 3, blocks=3), Tile(64, 64, 64, 8, 3))
"""rows: of one step; out, depth: most output channels of a block and most input channels, whatever the dtype. The
first spills on an A100; cards of 99 KB have the last for groups of unequal channels.
"""
TILES_FLOAT32 = (Tile(32, 64, 64, 8, 2),)

MOST_SUMS = 128 * 192
"""Of a program, which has them in registers."""
LEAST_ROWS = 512
"""Of a part: fewer, and writing sums costs as much as making them."""
PART_COST = 0.01
"""What a part's sums cost, written, read and added, beside all of the work of one multiprocessor. Not measured."""


@triton.jit(do_not_specialize=["rows", "rows_per_part"])
def weight_gradient_kernel(
    grad,
    x,
    weight,
    bias,
    rows,
    rows_per_part,
    grad_stride,
    x_stride,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """IN, OUT: channels of one group. weight: [parts, GROUPS * OUT, IN]; bias: [parts, GROUPS * OUT]."""
    IN_TILES: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
    OUT_TILES: tl.constexpr = (OUT + BLOCK_OUT * BLOCKS - 1) // (BLOCK_OUT * BLOCKS)
    program = tl.program_id(0)
    in_tile = program % IN_TILES
    first_out = program // IN_TILES % OUT_TILES * (BLOCK_OUT * BLOCKS) + tl.arange(0, BLOCK_OUT)
    group = program // (IN_TILES * OUT_TILES) % GROUPS
    part = (program // (IN_TILES * OUT_TILES * GROUPS)).to(tl.int64)
    k = in_tile * BLOCK_IN + tl.arange(0, BLOCK_IN)
    first = part * rows_per_part
    end = tl.minimum(first + rows_per_part, rows)
    sums = zero_sums(BLOCKS, BLOCK_OUT, BLOCK_IN)
    column_sums = ()
    for _ in tl.static_range(BLOCKS):
        column_sums = appended(column_sums, tl.zeros((BLOCK_OUT,), tl.float32))
    for start in range(first, end, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        inside = (row < end)[:, None]
        at = x + row[:, None] * x_stride + (group * IN + k)[None, :]
        a = tl.load(at, mask=inside & (k < IN)[None, :], other=0.0)
        added = ()
        added_columns = ()
        for i in tl.static_range(BLOCKS):
            out = first_out + i * BLOCK_OUT
            at = grad + row[:, None] * grad_stride + (group * OUT + out)[None, :]
            g = tl.load(at, mask=inside & (out < OUT)[None, :], other=0.0)
            added = appended(added, tl.dot(tl.trans(g), a, sums[i], input_precision=PRECISION))
            if HAS_BIAS:
                added_columns = appended(added_columns, column_sums[i] + tl.sum(g.to(tl.float32), 0))
        sums = added
        if HAS_BIAS:
            column_sums = added_columns
    for i in tl.static_range(BLOCKS):
        out = first_out + i * BLOCK_OUT
        channel = (part * GROUPS + group) * OUT + out
        stored = (out < OUT)[:, None] & (k < IN)[None, :]
        tl.store(weight + channel[:, None] * IN + k[None, :], sums[i], mask=stored)
        if HAS_BIAS and in_tile == 0:  # all of them have the sums
            tl.store(bias + channel, column_sums[i], mask=out < OUT)


class Cut(NamedTuple):
    """A program's sums."""

    out: int
    """Output channels of a block."""
    blocks: int
    """Of output channels."""
    into: int
    """Input channels."""

    @classmethod
    def of(cls, tile: Tile, out_per_group: int, in_per_group: int) -> Cut:
        out, into = block_for(out_per_group, tile.out), block_for(in_per_group, tile.depth)
        most = max(1, min(tile.blocks, MOST_SUMS // (out * into)))
        return cls(out, blocks_at_once(out_per_group, out, most), into)

    def programs(self, out_per_group: int, in_per_group: int) -> int:
        """That make a group's sums."""
        return triton.cdiv(out_per_group, self.out * self.blocks) * triton.cdiv(in_per_group, self.into)


def tile_for(x: Tensor, out_per_group: int, in_per_group: int) -> Tile:
    """The table's first that x's device has the registers and the shared memory for."""
    tiles, device = TILES_FLOAT32 if x.dtype is torch.float32 else TILES, device_of(x)
    # operands of the next steps; on Hopper the one that is multiplied stays beside them until wgmma is done
    spare = 0 if device.capability >= 9 else 1

    def fits(tile: Tile) -> bool:
        cut = Cut.of(tile, out_per_group, in_per_group)
        operands = tile.rows * (cut.out * cut.blocks + cut.into) * x.element_size()
        shared = operands * (tile.stages - spare)
        return tile.capability <= device.capability and shared <= device.shared_memory

    return next((tile for tile in tiles if fits(tile)), tiles[-1])


def parts_of(x: Tensor, rows: int, programs: int) -> int:
    """How many parts `rows` are cut into where one part makes `programs` programs.

    A multiprocessor has a program at a time, so time goes by whole waves: 36 programs on 132 multiprocessors take
    1/3 of the rows' time in 3 parts, 2/4 in 4, which leaves most idle in the second wave, and 2/7 in 7.
    """
    multiprocessors = device_of(x).multiprocessors
    most = min(rows // LEAST_ROWS, 4 * multiprocessors // programs)

    def time(parts: int) -> float:
        return -(-programs * parts // multiprocessors) / parts + PART_COST * parts

    return min(range(1, max(most, 1) + 1), key=time)


def weight_gradient(
    grad: Tensor, x: Tensor, groups: int, *, bias: bool, parts: int | None = None, tile: Tile | None = None
) -> tuple[Tensor, Tensor | None]:
    """The gradients of `grouped_pointwise_conv`'s weight, and of its bias if `bias`, given that of its result.

    grad: [..., out_channels]; x: [..., in_channels]; of one dtype. parts, tile: in place of our own choice.

    Returns float32 [out_channels, in_channels / groups, 1], and float32 [out_channels] or None.
    """
    grad_rows, x_rows = rows_of(grad), rows_of(x)
    rows, in_per_group, out_channels = x_rows.shape[0], x_rows.shape[1] // groups, grad_rows.shape[1]
    out_per_group = out_channels // groups
    tile = tile or tile_for(x, out_per_group, in_per_group)
    cut = Cut.of(tile, out_per_group, in_per_group)
    programs = groups * cut.programs(out_per_group, in_per_group)
    parts = parts or parts_of(x, rows, programs)
    sums = torch.empty((parts, out_channels, in_per_group, 1), dtype=torch.float32, device=x.device)
    columns = torch.empty((parts, out_channels), dtype=torch.float32, device=x.device) if bias else None
    launch(weight_gradient_kernel, programs * parts, x, tile.warps, tile.stages)(
        grad_rows,
        x_rows,
        sums,
        columns,
        rows,
        # whole steps, so that only the last part has a step with fewer rows
        triton.cdiv(triton.cdiv(rows, parts), tile.rows) * tile.rows,
        grad_rows.stride(0),
        x_rows.stride(0),
        IN=in_per_group,
        OUT=out_per_group,
        GROUPS=groups,
        HAS_BIAS=bias,
        PRECISION=precision(x.dtype),
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=cut.out,
        BLOCKS=cut.blocks,
        BLOCK_IN=cut.into,
    )
    return _added(sums), None if columns is None else _added(columns)


def _added(parts: Tensor) -> Tensor:
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)


def column_sums(grad: Tensor) -> Tensor:
    """A bias's gradient without its weight's, float32 [channels]."""
    return grad.reshape(-1, grad.shape[-1]).sum(0, dtype=torch.float32)
