"""y = activation(x weight^T + bias), group by group, of int8 x and weights.

           one block of a group's channels            out / groups
           +-----+-----+-----+                       +------------+
    rows   | a k |     |     |  integers, exact ->   |   int32    |  x scale of row and block x scale of out and block,
           +-----+-----+-----+                       +------------+    added to float32 sums; next block
                                                     |    sums    |  + bias, activation
                                                     +------------+

`grouped_pointwise_conv` with one more loop: a block of input channels has scales of its own on both sides, so
its int32 sums become float32 before the next block's. 127 x 127 x 16384 channels stay below 2^31. The
integers' sums are exact, so results don't depend on the tile but for the order of blocks, which is fixed.

Base model, per token: the operations of `grouped_pointwise_conv`, at twice bfloat16's rate by the datasheets,
and 0.75 KB of integers in place of 1.5 KB.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS
from squeezebert_fast.triton_kernels.activations import activate
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import Tile, tile_for
from squeezebert_fast.triton_kernels.launching import (
    block_for,
    check_contiguous,
    launch,
    rows_of,
)

TILES = (Tile(128, 64, 64, 8, 3), Tile(64, 64, 64, 4, 3), Tile(32, 64, 64, 4, 4), Tile(16, 32, 64, 2, 4))
"""As the product's in 16 bit, but a block's int32 sums stand beside the float32 ones: 128 x 128 is too large."""


@triton.jit(do_not_specialize=["rows"])
def grouped_pointwise_conv_int8_kernel(
    x,
    x_scale,
    weight,
    weight_scale,
    bias,
    y,
    rows,
    x_stride,
    SIZE: tl.constexpr,
    BLOCKS: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """SIZE: channels of a block; OUT: of a group. x_scale: [rows, GROUPS * BLOCKS]; weight_scale: [.., BLOCKS]."""
    OUT_TILES: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    program = tl.program_id(0)
    group = program % (GROUPS * OUT_TILES) // OUT_TILES
    row = (program // (GROUPS * OUT_TILES)).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = program % OUT_TILES * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    k = tl.arange(0, BLOCK_IN)
    read_row = tl.minimum(row, rows - 1)
    weight_row = group * OUT + tl.minimum(out, OUT - 1)
    x_tile = x + read_row[:, None] * x_stride + group * (BLOCKS * SIZE) + k[None, :]
    weight_tile = weight + weight_row[None, :] * (BLOCKS * SIZE) + k[:, None]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    for block in range(BLOCKS):
        exact = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.int32)
        for first in range(0, SIZE, BLOCK_IN):
            at = block * SIZE + first
            if SIZE % BLOCK_IN == 0:
                a = tl.load(x_tile + at)
                b = tl.load(weight_tile + at)
            else:
                a = tl.load(x_tile + at, mask=(first + k < SIZE)[None, :], other=0)
                b = tl.load(weight_tile + at, mask=(first + k < SIZE)[:, None], other=0)
            exact = tl.dot(a, b, exact, out_dtype=tl.int32)
        of_row = tl.load(x_scale + read_row * (GROUPS * BLOCKS) + group * BLOCKS + block)
        of_out = tl.load(weight_scale + weight_row * BLOCKS + block)
        sums += exact.to(tl.float32) * of_out[None, :] * of_row[:, None]
    channel = group * OUT + out
    if HAS_BIAS:
        sums += tl.load(bias + channel, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    sums = activate(sums, ACTIVATION, y.dtype.element_ty == tl.float32)
    stored = (row < rows)[:, None] & (out < OUT)[None, :]
    tl.store(y + row[:, None] * (GROUPS * OUT) + channel[None, :], sums.to(y.dtype.element_ty), mask=stored)


def grouped_pointwise_conv_int8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """`activation(conv1d(x * x_scale, weight * weight_scale, bias, kernel_size=1, groups))` over the last axis.

    x: int8 [..., in_channels] and x_scale: float32 [..., groups * blocks], from `quantize_rows`, contiguous.
    weight: int8 [out_channels, in_channels / groups, 1] and weight_scale: float32 [out_channels, blocks],
    from `backends.quantized.quantize(weight, blocks)`, contiguous. bias, groups, activation, tile: as in
    `grouped_pointwise_conv`.

    Returns [..., out_channels] in `dtype`, contiguous.
    """
    check_contiguous(x_scale, weight, weight_scale, bias)
    (out_channels, in_per_group), blocks = weight.shape[:2], weight_scale.shape[1]
    x_rows = rows_of(x)
    y = torch.empty((*x.shape[:-1], out_channels), dtype=dtype, device=x.device)
    rows, out_per_group, size = x_rows.shape[0], out_channels // groups, in_per_group // blocks
    if y.numel() == 0:
        return y
    tile = tile or tile_for(TILES, x, rows, out_per_group, groups)
    block_out = block_for(out_per_group, tile.out)
    programs = triton.cdiv(rows, tile.rows) * groups * triton.cdiv(out_per_group, block_out)
    launch(grouped_pointwise_conv_int8_kernel, programs, x, tile.warps, tile.stages)(
        x_rows,
        x_scale,
        weight,
        weight_scale,
        bias,
        y,
        rows,
        x_rows.stride(0),
        SIZE=size,
        BLOCKS=blocks,
        OUT=out_per_group,
        GROUPS=groups,
        HAS_BIAS=bias is not None,
        ACTIVATION=FUSED_ACTIVATIONS[activation],
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=block_out,
        BLOCK_IN=block_for(size, tile.depth * 2, 32),
    )
    return y
