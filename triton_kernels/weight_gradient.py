"""The gradient of a grouped product's weight and bias: grad^T x, group by group, and the sums of grad's columns.

            block_out                     block_in                    block_in
           +---------+                  +----------+                +----------+
    rows   | grad    |  transposed,     | x        |  block_out     |   sums   |   of one part of the rows
           |         |  block_rows      |          |                +----------+
           +---------+  at a time       +----------+

The contraction is over rows, of which there are thousands, and the result is small: 768 x 192 sums for 768
channels in 4 groups. So rows are cut into parts, enough for a program on every multiprocessor, each part's sums
go to memory of their own, and parts are added in order. Nothing is added atomically: the same gradient has
the same bits every time on one kind of GPU.

Base model, per token: 295 kFLOP for 768 -> 768 channels in 4 groups, and 3 KB in bfloat16 (grad, x): bound by
memory, like the product itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.grouped_pointwise_conv import Tile
from squeezebert_fast.triton_kernels.launching import block_for, device_of, launch, precision, rows_of

TILE = Tile(64, 128, 128, 8, 3)
"""rows: of one step; out, depth: most output and input channels, whatever the dtype."""
TILE_FLOAT32 = Tile(32, 64, 64, 8, 2)

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
    BLOCK_IN: tl.constexpr,
):
    """IN, OUT: channels of one group. weight: [parts, GROUPS * OUT, IN]; bias: [parts, GROUPS * OUT]."""
    IN_TILES: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
    OUT_TILES: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    program = tl.program_id(0)
    in_tile = program % IN_TILES
    out_tile = program // IN_TILES % OUT_TILES
    group = program // (IN_TILES * OUT_TILES) % GROUPS
    part = (program // (IN_TILES * OUT_TILES * GROUPS)).to(tl.int64)
    k = in_tile * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out = out_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    first = part * rows_per_part
    end = tl.minimum(first + rows_per_part, rows)
    sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    column_sums = tl.zeros((BLOCK_OUT,), tl.float32)
    for start in range(first, end, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        inside = (row < end)[:, None]
        g = tl.load(
            grad + row[:, None] * grad_stride + (group * OUT + out)[None, :],
            mask=inside & (out < OUT)[None, :],
            other=0.0,
        )
        a = tl.load(
            x + row[:, None] * x_stride + (group * IN + k)[None, :],
            mask=inside & (k < IN)[None, :],
            other=0.0,
        )
        sums = tl.dot(tl.trans(g), a, sums, input_precision=PRECISION)
        if HAS_BIAS:
            column_sums += tl.sum(g.to(tl.float32), 0)
    channel = (part * GROUPS + group) * OUT + out
    stored = (out < OUT)[:, None] & (k < IN)[None, :]
    tl.store(weight + channel[:, None] * IN + k[None, :], sums, mask=stored)
    if HAS_BIAS and in_tile == 0:  # all of them have the sums
        tl.store(bias + channel, column_sums, mask=out < OUT)


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
    tile = tile or (TILE_FLOAT32 if x.dtype is torch.float32 else TILE)
    block_out, block_in = block_for(out_per_group, tile.out), block_for(in_per_group, tile.depth)
    programs = groups * triton.cdiv(out_per_group, block_out) * triton.cdiv(in_per_group, block_in)
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
        BLOCK_OUT=block_out,
        BLOCK_IN=block_in,
    )
    return _added(sums), None if columns is None else _added(columns)


def _added(parts: Tensor) -> Tensor:
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)


def column_sums(grad: Tensor) -> Tensor:
    """A bias's gradient without its weight's, float32 [channels]."""
    return grad.reshape(-1, grad.shape[-1]).sum(0, dtype=torch.float32)
