"""q, k and v of x: three grouped products in one launch; and the gradient of x, the sum of three, in one.

                     +- weight_q^T + bias_q -> q          of q -- weight_q --+
    x, one group ----+- weight_k^T + bias_k -> k          of k -- weight_k --+-> sums, one group of x's gradient
                     +- weight_v^T + bias_v -> v          of v -- weight_v --+

Each product is that of grouped_pointwise_conv.py. What is gained is bytes, of which these products are short: programs
that read the same rows of x are neighbours, so that x comes from device memory once and not three times, and the sum
of the three gradients is made in registers, where three products would write three tensors and two additions would
read them again. Base model, per token in bfloat16: forward 6 KB for 9, backward 6 KB for 18; and one launch for three
or five, which is what few tokens wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.blocks import appended
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import (
    TILES,
    TILES_FLOAT32,
    Tile,
    add_grouped_product,
    columns_of,
    columns_read,
    grouped_pointwise_conv,
    grouped_product,
    tile_for,
)
from squeezebert_fast.triton_kernels.launching import (
    block_for,
    check_contiguous,
    launch,
    precision,
    rows_of,
)


@triton.jit(do_not_specialize=["rows"])
def qkv_projection_kernel(
    x,
    weight_q,
    weight_k,
    weight_v,
    bias_q,
    bias_k,
    bias_v,
    q,
    k,
    v,
    rows,
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
    """IN, OUT: channels of one group. x: rows of x_stride elements. q, k, v: contiguous [rows, GROUPS * OUT]."""
    OUT_TILES: tl.constexpr = (OUT + BLOCK_OUT * BLOCKS - 1) // (BLOCK_OUT * BLOCKS)
    program = tl.program_id(0)
    first_out = program % OUT_TILES * (BLOCK_OUT * BLOCKS)
    which = program // OUT_TILES % 3
    group = program // (3 * OUT_TILES) % GROUPS
    row = (program // (3 * OUT_TILES * GROUPS)).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    weight = tl.where(which == 0, weight_q, tl.where(which == 1, weight_k, weight_v))
    columns = ()
    for i in tl.static_range(BLOCKS):
        out = first_out + i * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        at = weight + (group * OUT + columns_read(out, OUT, BLOCK_OUT * BLOCKS))[None, :] * IN
        columns = appended(columns, at)
    x_rows = x + tl.minimum(row, rows - 1)[:, None] * x_stride + group * IN
    sums = grouped_product(x_rows, columns, IN, PRECISION, BLOCK_ROWS, BLOCK_OUT, BLOCKS, BLOCK_IN)
    y = tl.where(which == 0, q, tl.where(which == 1, k, v))
    for i in tl.static_range(BLOCKS):
        out = first_out + i * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        channel = group * OUT + out
        done = sums[i]
        if HAS_BIAS:
            bias = tl.where(which == 0, bias_q, tl.where(which == 1, bias_k, bias_v))
            done += tl.load(bias + channel, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
        at = row[:, None] * (GROUPS * OUT) + channel[None, :]
        tl.store(y + at, done.to(y.dtype.element_ty), mask=(row < rows)[:, None] & (out < OUT)[None, :])


@triton.jit(do_not_specialize=["rows"])
def qkv_input_gradient_kernel(
    grad_q,
    grad_k,
    grad_v,
    weight_q,
    weight_k,
    weight_v,
    of_x,
    rows,
    q_stride,
    k_stride,
    v_stride,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """IN, OUT: channels of x and of q in one group. Weights: [GROUPS * OUT, IN]. of_x: contiguous [rows,
    GROUPS * IN].
    """
    TILES: tl.constexpr = (IN + BLOCK_IN * BLOCKS - 1) // (BLOCK_IN * BLOCKS)
    program = tl.program_id(0)
    group = program // TILES % GROUPS
    row = (program // (TILES * GROUPS)).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first = program % TILES * (BLOCK_IN * BLOCKS)
    read_row = tl.minimum(row, rows - 1)[:, None]
    # of each weight: its rows are what is summed over, its columns lie side by side
    of_q = ()
    of_k = ()
    of_v = ()
    for i in tl.static_range(BLOCKS):
        k = first + i * BLOCK_IN + tl.arange(0, BLOCK_IN)
        at = group * OUT * IN + columns_read(k, IN, BLOCK_IN * BLOCKS)[None, :]
        of_q = appended(of_q, weight_q + at)
        if grad_k is not None:
            of_k = appended(of_k, weight_k + at)
        if grad_v is not None:
            of_v = appended(of_v, weight_v + at)
    rows_q = grad_q + read_row * q_stride + group * OUT
    sums = grouped_product(rows_q, of_q, OUT, PRECISION, BLOCK_ROWS, BLOCK_IN, BLOCKS, BLOCK_OUT, IN)
    if grad_k is not None:
        rows_k = grad_k + read_row * k_stride + group * OUT
        sums = add_grouped_product(sums, rows_k, of_k, OUT, PRECISION, BLOCKS, BLOCK_OUT, IN)
    if grad_v is not None:
        rows_v = grad_v + read_row * v_stride + group * OUT
        sums = add_grouped_product(sums, rows_v, of_v, OUT, PRECISION, BLOCKS, BLOCK_OUT, IN)
    for i in tl.static_range(BLOCKS):
        k = first + i * BLOCK_IN + tl.arange(0, BLOCK_IN)
        at = row[:, None] * (GROUPS * IN) + (group * IN + k)[None, :]
        tl.store(of_x + at, sums[i].to(of_x.dtype.element_ty), mask=(row < rows)[:, None] & (k < IN)[None, :])


def _tiles(x: Tensor) -> Sequence[Tile]:
    return TILES_FLOAT32 if x.dtype is torch.float32 else TILES


def qkv_projection(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    groups: int,
    *,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v: three times what `grouped_pointwise_conv` makes of x, a weight and a bias.

    x: [..., in_channels]. weights: three of one shape, [out_channels, in_channels / groups, 1] or without the last
    axis. biases: [out_channels] or None, each. dtypes as there. tile: in place of the table's choice.

    Returns three [..., out_channels] in x's dtype, each contiguous.
    """
    check_contiguous(*weights, *biases)
    x_rows = rows_of(x)
    rows, in_per_group = x_rows.shape[0], x_rows.shape[1] // groups
    out_per_group = weights[0].shape[0] // groups
    if len({None if bias is None else bias.dtype for bias in biases}) > 1:
        # the kernel has one type for the three
        q, k, v = (grouped_pointwise_conv(x, w, b, groups) for w, b in zip(weights, biases, strict=True))
        return q, k, v
    shape = (*x.shape[:-1], out_per_group * groups)
    q, k, v = (torch.empty(shape, dtype=x.dtype, device=x.device) for _ in range(3))
    if q.numel() > 0:
        tile = tile or tile_for(_tiles(x), x, rows, out_per_group, 3 * groups)
        block_out, blocks = columns_of(tile, out_per_group)
        programs = triton.cdiv(rows, tile.rows) * groups * 3 * triton.cdiv(out_per_group, block_out * blocks)
        launch(qkv_projection_kernel, programs, x, tile.warps, tile.stages)(
            x_rows,
            *weights,
            *biases,
            q,
            k,
            v,
            rows,
            x_rows.stride(0),
            IN=in_per_group,
            OUT=out_per_group,
            GROUPS=groups,
            HAS_BIAS=biases[0] is not None,
            PRECISION=precision(x.dtype),
            BLOCK_ROWS=tile.rows,
            BLOCK_OUT=block_out,
            BLOCKS=blocks,
            BLOCK_IN=block_for(in_per_group, tile.depth * 2 // x.element_size()),
        )
    return q, k, v


def qkv_input_gradient(
    grads: Sequence[Tensor], weights: Sequence[Tensor], groups: int, *, tile: Tile | None = None
) -> Tensor:
    """x's gradient, given those of q, k and v, or of one or two of them, and as many weights.

    grads: [..., out_channels], of one dtype; weights as in `qkv_projection`. tile: in place of the table's choice.

    Returns [..., in_channels] in the gradients' dtype, contiguous. The sum is rounded once.
    """
    check_contiguous(*weights)
    grad_rows = [rows_of(grad) for grad in grads]
    first, in_per_group = grads[0], weights[0].shape[1]
    rows, out_per_group = grad_rows[0].shape[0], grad_rows[0].shape[1] // groups
    of_x = torch.empty((*first.shape[:-1], in_per_group * groups), dtype=first.dtype, device=first.device)
    if of_x.numel() > 0:
        tile = tile or tile_for(_tiles(first), first, rows, in_per_group, groups)
        (block_in, blocks), none = columns_of(tile, in_per_group), (None,) * (3 - len(grads))
        programs = triton.cdiv(rows, tile.rows) * groups * triton.cdiv(in_per_group, block_in * blocks)
        launch(qkv_input_gradient_kernel, programs, first, tile.warps, tile.stages)(
            *grad_rows,
            *none,
            *weights,
            *none,
            of_x,
            rows,
            *(grad.stride(0) for grad in grad_rows),
            *(0 for _ in none),
            IN=in_per_group,
            OUT=out_per_group,
            GROUPS=groups,
            PRECISION=precision(first.dtype),
            BLOCK_ROWS=tile.rows,
            BLOCK_IN=block_in,
            BLOCKS=blocks,
            BLOCK_OUT=block_for(out_per_group, tile.depth * 2 // first.element_size()),
        )
    return of_x
