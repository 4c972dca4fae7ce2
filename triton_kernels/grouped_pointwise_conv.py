"""y = activation(x weight^T + bias), group by group: a block-diagonal matrix product.

             in / groups                  out / groups                       out / groups
           +------+------+ ...          +------------+                     +------------+
    rows   | a k  |      |   block_in   | weight^T   |       block_rows    |    sums    |   + bias, activation
           +------+------+              +------------+                     +------------+
             of one group                 block_out

One program makes one tile of y, up to three blocks of columns: it walks along its group's input channels in steps of
`block_in`, with operands for the next steps on their way to shared memory, and the float32 sums in registers.
Programs of the same rows are neighbours, so that x comes from device memory once and from the L2 cache after
that. Weights are read as the module holds them, [out, in / groups].

Rows past the last one read the last one again and are not stored; channels past a group's end are masked,
which costs nothing where the group is a multiple of the block, for the test is made when the kernel is
compiled.

The gradient of x is the same product on the weights transposed, which are read where they are, with a step from
one channel to the next; `derivative` makes the gradient of what an activation was applied to, by computing
that again. Weights' gradients: weight_gradient.py.

Base model, per token: 768 -> 768 channels in 4 groups are 295 kFLOP and 3 KB in bfloat16 (x once, y once; the
weights' 0.3 MB stay in L2). That is 96 FLOP a byte, and an H200's two measured ceilings meet at 184: bound by
memory, which is why passes A and C fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS
from squeezebert_fast.triton_kernels.activations import activate
from squeezebert_fast.triton_kernels.activations import derivative as activation_derivative
from squeezebert_fast.triton_kernels.blocks import appended, zero_sums
from squeezebert_fast.triton_kernels.launching import (
    Device,
    block_for,
    blocks_at_once,
    check_contiguous,
    choose,
    device_of,
    launch,
    precision,
    rows_of,
)


class Tile(NamedTuple):
    """How a product is cut, and what runs a program."""

    rows: int
    out: int
    """Most output channels of a block; `block_for` takes fewer where that wastes less."""
    depth: int
    """Most input channels of one step, in elements of 2 bytes: half as many of float32."""
    warps: int
    stages: int
    """Steps whose operands are in shared memory or on their way to it."""
    capability: int = 8
    """The least major compute capability that it is for: on the others it spills registers."""
    blocks: int = 1
    """Most blocks of output channels that a program makes of the same rows, where a kernel can make several."""

    @property
    def columns(self) -> int:
        """Most output channels that a program makes."""
        return self.out * self.blocks

    def fits(self, device: Device) -> bool:
        shared_memory = (self.rows + self.columns) * self.depth * 2 * self.stages
        return shared_memory <= device.shared_memory and self.capability <= device.capability


TILES = (
    Tile(128, 64, 32, 8, 4, blocks=3),
    Tile(128, 128, 64, 8, 3),
    Tile(64, 64, 64, 4, 3),
    Tile(32, 64, 64, 4, 4),
    Tile(16, 32, 64, 2, 4),
)
"""From many rows to few. wgmma needs 64 rows and 4 warps; below that, latency counts, so more steps are in
flight. Of 192 channels in a group the first makes all: 77 FLOP for each byte from L2, where 128 x 64 has 43.
"""

TILES_FLOAT32 = (Tile(64, 64, 32, 8, 2), Tile(32, 32, 64, 4, 3), Tile(16, 32, 64, 2, 3))
"""Without tensor cores each thread multiplies scalars, so tiles are bounded by registers."""


@triton.jit(do_not_specialize=["rows"])
def grouped_pointwise_conv_kernel(
    x,
    weight,
    bias,
    grad,
    y,
    rows,
    x_stride,
    grad_stride,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    DERIVATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """IN, OUT: channels of one group. x: rows of x_stride elements. y: contiguous [rows, GROUPS * OUT]. A program
    makes BLOCKS blocks of BLOCK_OUT channels.

    TRANSPOSED: weight is [GROUPS * IN, OUT]. DERIVATIVE: y is grad times the activation's derivative there.
    """
    OUT_TILES: tl.constexpr = (OUT + BLOCK_OUT * BLOCKS - 1) // (BLOCK_OUT * BLOCKS)
    program = tl.program_id(0)
    group = program % (GROUPS * OUT_TILES) // OUT_TILES
    row = (program // (GROUPS * OUT_TILES)).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first_out = program % OUT_TILES * (BLOCK_OUT * BLOCKS)
    x_rows = x + tl.minimum(row, rows - 1)[:, None] * x_stride + group * IN
    STEP: tl.constexpr = OUT if TRANSPOSED else 1
    COLUMN: tl.constexpr = 1 if TRANSPOSED else IN
    weight += group * IN * OUT
    columns = ()
    for i in tl.static_range(BLOCKS):
        out = first_out + i * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        columns = appended(columns, weight + columns_read(out, OUT, BLOCK_OUT * BLOCKS)[None, :] * COLUMN)
    sums = grouped_product(x_rows, columns, IN, PRECISION, BLOCK_ROWS, BLOCK_OUT, BLOCKS, BLOCK_IN, STEP)
    for i in tl.static_range(BLOCKS):
        out = first_out + i * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        channel = group * OUT + out
        done = sums[i]
        if HAS_BIAS:
            done += tl.load(bias + channel, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
        stored = (row < rows)[:, None] & (out < OUT)[None, :]
        if DERIVATIVE:
            factor = tl.load(grad + row[:, None] * grad_stride + channel[None, :], mask=stored, other=0.0).to(
                tl.float32
            )
            done = factor * activation_derivative(done, ACTIVATION, x.dtype.element_ty == tl.float32)
        else:
            done = activate(done, ACTIVATION, x.dtype.element_ty == tl.float32)
        at = row[:, None] * (GROUPS * OUT) + channel[None, :]
        tl.store(y + at, done.to(y.dtype.element_ty), mask=stored)


@triton.jit
def columns_read(column, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """The columns of a block, those past the last one as the last one, whose sums are not stored.

    Where blocks end with the last column nothing is done, not for the instruction's sake: Triton no longer knows
    that numbers follow one another once a minimum was taken of them, and where a weight's columns lie side by side
    (gradients of inputs) it would read them two bytes at a time, without asynchronous copies.
    """
    if COLUMNS % BLOCK == 0:
        return column
    return tl.minimum(column, COLUMNS - 1)


@triton.jit
def grouped_product(
    x, columns, IN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_IN: tl.constexpr, STEP: tl.constexpr = 1,
):  # fmt: skip
    """A tuple of BLOCKS float32 [BLOCK_ROWS, BLOCK_OUT]: rows at the pointers x, [BLOCK_ROWS, 1], times the weight's
    columns at as many blocks of pointers, [1, BLOCK_OUT], whose next element is STEP further.
    """
    sums = zero_sums(BLOCKS, BLOCK_ROWS, BLOCK_OUT)
    return add_grouped_product(sums, x, columns, IN, PRECISION, BLOCKS, BLOCK_IN, STEP)


@triton.jit
def add_grouped_product(
    sums, x, columns, IN: tl.constexpr, PRECISION: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_IN: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """`sums` + `grouped_product`."""
    k = tl.arange(0, BLOCK_IN)
    for first in range(0, IN, BLOCK_IN):
        if IN % BLOCK_IN == 0:
            a = tl.load(x + (first + k)[None, :])
        else:
            a = tl.load(x + (first + k)[None, :], mask=(first + k < IN)[None, :], other=0.0)
        added = ()
        for i in tl.static_range(BLOCKS):
            at = columns[i] + (first + k)[:, None] * STEP
            b = tl.load(at) if IN % BLOCK_IN == 0 else tl.load(at, mask=(first + k < IN)[:, None], other=0.0)
            added = appended(added, tl.dot(a, b, sums[i], input_precision=PRECISION))
        sums = added
    return sums


def columns_of(tile: Tile, out_per_group: int) -> tuple[int, int]:
    """(Output channels of a block, blocks of a program)."""
    block = block_for(out_per_group, tile.out)
    return block, blocks_at_once(out_per_group, block, tile.blocks)


def tile_for(tiles: Sequence[Tile], x: Tensor, rows: int, out_per_group: int, groups: int) -> Tile:
    """The tile of a table that a product of `rows` rows is cut into, as `choose` says."""

    def programs(tile: Tile) -> int:
        block, blocks = columns_of(tile, out_per_group)
        return -(-rows // tile.rows) * groups * -(-out_per_group // (block * blocks))

    device = device_of(x)
    return choose(tiles, device, programs, lambda tile: tile.fits(device)) or tiles[-1]


def grouped_pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None = None,
    *,
    transposed: bool = False,
    tile: Tile | None = None,
) -> Tensor:
    """`activation(conv1d(x, weight, bias, kernel_size=1, groups))` over the last axis.

    x: [..., in_channels], float32, bfloat16 or float16. weight: [out_channels, in_channels / groups, 1] or without
    the last axis, contiguous, of x's dtype; bias: [out_channels] or None, contiguous, of any of these dtypes.
    activation: a key of FUSED_ACTIVATIONS. transposed: the product's gradient with respect to its input, x being
    that of its result: weight is then [in_channels, out_channels / groups, 1]. tile: in place of the table's choice.

    Returns [..., out_channels] in x's dtype, contiguous. Sums are float32.
    """
    return _launch(x, weight, bias, groups, activation, None, transposed, tile)


def derivative(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """grad times the activation's derivative at `grouped_pointwise_conv(x, weight, bias, groups)`.

    grad: [..., out_channels] in x's dtype, as is the result. The other arguments are those of
    `grouped_pointwise_conv`.
    """
    return _launch(x, weight, bias, groups, activation, grad, False, tile)


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    grad: Tensor | None,
    transposed: bool,
    tile: Tile | None,
) -> Tensor:
    check_contiguous(weight, bias)
    x_rows = rows_of(x)
    grad_rows = None if grad is None else rows_of(grad)
    in_per_group = x_rows.shape[1] // groups
    out_per_group = weight.shape[1] if transposed else weight.shape[0] // groups
    y = torch.empty((*x.shape[:-1], out_per_group * groups), dtype=x.dtype, device=x.device)
    rows = x_rows.shape[0]
    if y.numel() == 0:
        return y
    tiles = TILES_FLOAT32 if x.dtype is torch.float32 else TILES
    tile = tile or tile_for(tiles, x, rows, out_per_group, groups)
    block_out, blocks = columns_of(tile, out_per_group)
    programs = triton.cdiv(rows, tile.rows) * groups * triton.cdiv(out_per_group, block_out * blocks)
    launch(grouped_pointwise_conv_kernel, programs, x, tile.warps, tile.stages)(
        x_rows,
        weight,
        bias,
        grad_rows,
        y,
        rows,
        x_rows.stride(0),
        0 if grad_rows is None else grad_rows.stride(0),
        IN=in_per_group,
        OUT=out_per_group,
        GROUPS=groups,
        HAS_BIAS=bias is not None,
        ACTIVATION=FUSED_ACTIVATIONS[activation],
        TRANSPOSED=transposed,
        DERIVATIVE=grad is not None,
        PRECISION=precision(x.dtype),
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=block_out,
        BLOCKS=blocks,
        BLOCK_IN=block_for(in_per_group, tile.depth * 2 // x.element_size()),
    )
    return y
