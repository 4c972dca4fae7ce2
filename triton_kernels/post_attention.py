"""Pass B: y = layer_norm(x weight^T + bias + residual).

             in / groups              block_out             all channels
           +------+------+ ...          +---------+       +---------+---------+---
    rows   | a k  |      |   block_in   |weight^T |       |  done   |  sums   |      y: first x weight^T + bias,
           +------+------+              +---------+       +---------+---------+---      column tile by column tile;
                                                          then, with whole rows there, residual + LayerNorm

One program owns whole rows of y. A row tile of 768 float32 sums fits no register file (64 rows are 192
registers a thread), so sums are made for `block_out` columns at a time and wait in y, in its dtype. Once the
program has made all its columns it reads its rows back, from L2, since nothing else has touched them, and
does the rest as `add_layer_norm` does. That costs no traffic to device memory, and one rounding, that of the
product; PyTorch rounds there too, and once more after the residual.

Few rows make few programs: where they leave multiprocessors idle, a product cut along columns too and a separate
`add_layer_norm` are faster, and `conv_add_layer_norm` launches those instead.

Base model, per token: 1180 kFLOP (a dense 768 x 768 product) and 4.6 KB in bfloat16 (x, residual, y): 256
FLOP per byte, so bound by arithmetic, just. A tile of 128 x 256 needs 85 FLOP per byte from L2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.add_layer_norm import (
    add_layer_norm,
    finish_rows,
    row_blocks,
    rows_at_once,
)
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import (
    TILES as PRODUCT_TILES,
)
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import (
    Tile,
    columns_of,
    columns_read,
    grouped_pointwise_conv,
    grouped_product,
)
from squeezebert_fast.triton_kernels.launching import (
    block_for,
    check_contiguous,
    choose,
    device_of,
    launch,
    one_program_pays,
    precision,
    rows_of,
)

TILES = (Tile(128, 256, 32, 8, 4, 9), Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 3))
"""One program makes all column tiles of its rows."""
TILES_FLOAT32 = (Tile(64, 64, 64, 8, 2),)


@triton.jit(do_not_specialize=["rows"])
def conv_add_layer_norm_kernel(
    x,
    weight,
    bias,
    residual,
    y,
    rows,
    x_stride,
    residual_stride,
    gamma,
    beta,
    eps,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    NORM_BLOCK: tl.constexpr,
    NORM_BLOCKS: tl.constexpr,
    NORM_ROWS: tl.constexpr,
):
    """IN, OUT: channels of one group. y: contiguous [rows, GROUPS * OUT]; x and residual: rows of their strides."""
    OUT_TILES: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    row = first_row + tl.arange(0, BLOCK_ROWS)
    read_row = tl.minimum(row, rows - 1)[:, None]
    for tile in range(GROUPS * OUT_TILES):
        group = tile // OUT_TILES
        out = tile % OUT_TILES * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        channel = group * OUT + out
        columns = weight + (group * OUT + columns_read(out, OUT, BLOCK_OUT))[None, :] * IN
        (sums,) = grouped_product(
            x + read_row * x_stride + group * IN,
            (columns,),
            IN,
            PRECISION,
            BLOCK_ROWS,
            BLOCK_OUT,
            1,
            BLOCK_IN,
        )
        if HAS_BIAS:
            sums += tl.load(bias + channel, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
        inside = (row < rows)[:, None] & (out < OUT)[None, :]
        tl.store(
            y + row[:, None] * (GROUPS * OUT) + channel[None, :], sums.to(y.dtype.element_ty), mask=inside
        )
    finish_rows(
        y, residual, residual_stride, first_row, rows, gamma, beta, eps,
        GROUPS * OUT, NORM_BLOCK, NORM_BLOCKS, BLOCK_ROWS, NORM_ROWS,
    )  # fmt: skip


def fused_tile(x: Tensor, rows: int, out_per_group: int, groups: int) -> Tile | None:
    """The tile of the one kernel, or None where few rows are better served by two."""
    tiles = TILES_FLOAT32 if x.dtype is torch.float32 else TILES
    device = device_of(x)

    def programs(tile: Tile) -> int:
        return -(-rows // tile.rows)

    tile = choose(tiles, device, programs, lambda tile: tile.fits(device))
    if tile is None:
        return None
    block, blocks = columns_of(PRODUCT_TILES[0], out_per_group)
    pieces = groups * -(-out_per_group // (block * blocks))
    return tile if one_program_pays(programs(tile), pieces, device) else None


def conv_add_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """`layer_norm(conv(x) + residual) * gamma + beta`, conv as in `grouped_pointwise_conv`.

    x: [..., in_channels]; residual: [..., out_channels] of x's dtype; gamma, beta: [out_channels],
    contiguous. tile: run the one kernel with this tile, whatever the number of rows.

    Returns [..., out_channels] in x's dtype, contiguous.
    """
    check_contiguous(weight, bias, gamma, beta)
    x_rows, residual_rows = rows_of(x), rows_of(residual)
    rows, channels = residual_rows.shape
    out_per_group, in_per_group = channels // groups, weight.shape[1]
    tile = tile or fused_tile(x, rows, out_per_group, groups)
    if tile is None or rows == 0:
        product = grouped_pointwise_conv(x, weight, bias, groups)
        return add_layer_norm(product, residual, gamma, beta, eps)
    y = torch.empty(residual.shape, dtype=x.dtype, device=x.device)
    norm_cut = row_blocks(channels)
    launch(conv_add_layer_norm_kernel, triton.cdiv(rows, tile.rows), x, tile.warps, tile.stages)(
        x_rows,
        weight,
        bias,
        residual_rows,
        y,
        rows,
        x_rows.stride(0),
        residual_rows.stride(0),
        gamma,
        beta,
        eps,
        IN=in_per_group,
        OUT=out_per_group,
        GROUPS=groups,
        HAS_BIAS=bias is not None,
        PRECISION=precision(x.dtype),
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=block_for(out_per_group, tile.out),
        BLOCK_IN=block_for(in_per_group, tile.depth * 2 // x.element_size()),
        NORM_BLOCK=norm_cut.block,
        NORM_BLOCKS=norm_cut.blocks,
        NORM_ROWS=rows_at_once(channels, tile.rows, tile.warps),
    )
    return y
