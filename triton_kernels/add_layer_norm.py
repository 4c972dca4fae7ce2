"""y = layer_norm(dropout(x) + residual), and without dropout over rows that another kernel has just written.

    channels: 768 = 3 x 256
    +---------+---------+---------+
    |  a few rows, in registers   |   mean, then the mean square of the differences from it, as PyTorch does
    +---------+---------+---------+

Bound by memory: the base model's row of 768 moves 4.6 KB in bfloat16 (x, residual, y) for 8 FLOP a channel.
A row is cut into blocks that one warp holds: then sums over it are shuffles within the warp, and warps don't
wait for one another.

For a backward (add_layer_norm_backward.py) the sum before the norm and its rows' statistics are kept.

`finish_rows` does the same at the end of passes B and C: their rows are too wide for registers, so they write
the products to y and come back for them, which the L2 cache serves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.blocks import appended
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout, keep_factors
from squeezebert_fast.triton_kernels.launching import check_contiguous, launch, power_of_two, rows_of


@triton.jit
def normalized(blocks, gamma, beta, eps, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """(LayerNorm of rows, their means, their reciprocal deviations). A row comes and goes as a tuple of BLOCKS
    blocks of BLOCK channels; those past CHANNELS must be zero.
    """
    sums = tl.sum(blocks[0], 1)
    for i in tl.static_range(1, BLOCKS):
        sums += tl.sum(blocks[i], 1)
    mean = sums / CHANNELS
    squares = tl.zeros_like(sums)
    for i in tl.static_range(BLOCKS):
        difference = blocks[i] - mean[:, None]
        if (i + 1) * BLOCK > CHANNELS:
            difference = tl.where((i * BLOCK + tl.arange(0, BLOCK) < CHANNELS)[None, :], difference, 0.0)
        squares += tl.sum(difference * difference, 1)
    reciprocal = 1.0 / tl.sqrt_rn(squares / CHANNELS + eps)
    done = ()
    for i in tl.static_range(BLOCKS):
        # addresses of the block's shape, though all rows have the same: a vector, or [1, BLOCK], would have a layout of
        # its own and change it in shared memory, with a barrier
        channel = tl.broadcast_to(i * BLOCK + tl.arange(0, BLOCK)[None, :], blocks[i].shape)
        scale = tl.load(gamma + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        shift = tl.load(beta + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        done = appended(done, (blocks[i] - mean[:, None]) * reciprocal[:, None] * scale + shift)
    return done, mean, reciprocal


@triton.jit
def add_layer_norm_rows(
    x, x_stride, residual, residual_stride, y, row, rows, gamma, beta, eps, total, mean_out, reciprocal_out,
    threshold, dropout_scale, seed,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, DROPOUT: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """The rows `row`, an int64 block, of y; x may be y itself. KEEP: total, [rows, CHANNELS], is what the norm is
    applied to; the other two get the means and reciprocal deviations of its rows.
    """
    blocks = ()
    for i in tl.static_range(BLOCKS):
        channel = i * BLOCK + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
        v = tl.load(x + row[:, None] * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            v *= keep_factors(row, i * BLOCK, threshold, dropout_scale, seed, BLOCK)
        v += tl.load(residual + row[:, None] * residual_stride + channel[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        if KEEP:
            at = row[:, None] * CHANNELS + channel[None, :]
            tl.store(total + at, v.to(total.dtype.element_ty), mask=inside)
        blocks = appended(blocks, v)
    blocks, mean, reciprocal = normalized(blocks, gamma, beta, eps, CHANNELS, BLOCK, BLOCKS)
    for i in tl.static_range(BLOCKS):
        channel = i * BLOCK + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
        at = row[:, None] * CHANNELS + channel[None, :]
        tl.store(y + at, blocks[i].to(y.dtype.element_ty), mask=inside)
    if KEEP:
        tl.store(mean_out + row, mean, mask=row < rows)
        tl.store(reciprocal_out + row, reciprocal, mask=row < rows)


@triton.jit
def finish_rows(
    y, residual, residual_stride, first_row, rows, gamma, beta, eps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr,
    ROWS_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """`add_layer_norm` in place of ROWS rows of y that this program wrote; waits until all its threads have."""
    tl.debug_barrier()  # the threads that read a row are not those that wrote it
    for start in range(0, ROWS, ROWS_AT_ONCE):
        add_layer_norm_rows(
            y, CHANNELS, residual, residual_stride, y, first_row + start + tl.arange(0, ROWS_AT_ONCE), rows,
            gamma, beta, eps, None, None, None, 0, 1.0, None, CHANNELS, BLOCK, BLOCKS, False, False,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "threshold", "dropout_scale"])
def add_layer_norm_kernel(
    x,
    residual,
    y,
    total,
    mean_out,
    reciprocal_out,
    rows,
    x_stride,
    residual_stride,
    gamma,
    beta,
    eps,
    threshold: tl.uint32,
    dropout_scale,
    seed,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP: tl.constexpr,
):
    add_layer_norm_rows(
        x, x_stride, residual, residual_stride, y, tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), rows,
        gamma, beta, eps, total, mean_out, reciprocal_out, threshold, dropout_scale, seed,
        CHANNELS, BLOCK, BLOCKS, DROPOUT, KEEP,
    )  # fmt: skip


class RowBlocks(NamedTuple):
    """How the channels of a row are cut: into powers of two, which is what Triton's blocks are."""

    block: int
    blocks: int

    @property
    def lanes(self) -> int:
        return self.block * self.blocks


WARP_OF_A_ROW = 256
"""Channels of 32 threads that load 16 bytes of bfloat16 each. In a block of more, Triton gives one row to several
warps, and each sum over a row waits for all of them at a barrier.
"""


def row_blocks(channels: int) -> RowBlocks:
    """Up to four blocks with the least excess; of equal ones that where a warp has whole rows, and the fewest."""
    cuts = [RowBlocks(power_of_two(-(-channels // count)), count) for count in range(1, 5)]
    return min(cuts, key=lambda cut: (cut.lanes, cut.block > WARP_OF_A_ROW, cut.blocks))


def rows_per_program(channels: int) -> tuple[int, int]:
    """(rows, warps): a row a warp, some 32 values a thread, enough loads in flight to hide the memory's latency."""
    lanes = row_blocks(channels).lanes
    return _power_of_two_within(4096 // lanes), power_of_two(lanes // 1024, 4, 16)


def rows_at_once(channels: int, rows: int, warps: int) -> int:
    """How many of a program's `rows` `finish_rows` takes at a time: up to 96 values a thread, which have the
    registers of sums that are done with. The more, the fewer times it waits for memory.
    """
    return min(rows, _power_of_two_within(warps * 32 * 96 // row_blocks(channels).lanes))


def _power_of_two_within(n: int) -> int:
    return 1 << max(n, 1).bit_length() - 1


def add_layer_norm(x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """`layer_norm(x + residual) * gamma + beta` over the last axis.

    x, residual: [..., channels], float32, bfloat16 or float16, also one of each. gamma, beta: [channels],
    contiguous, any of these dtypes. Returns [..., channels] in the wider dtype of x and residual, contiguous.
    Everything between load and store is float32.
    """
    y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype), device=x.device)
    _launch(x, residual, gamma, beta, eps, NO_DROPOUT, y)
    return y


def add_layer_norm_with_statistics(
    x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, eps: float, dropout: Dropout
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`layer_norm(dropout(x) + residual) * gamma + beta`, and what `add_layer_norm_backward` needs besides.

    Arguments are those of `add_layer_norm`. Returns the result and the sum before the norm, both [..., channels]
    in the wider dtype of x and residual, and float32 [...]: the sum's mean, and the reciprocal of its deviation.
    """
    dtype = torch.promote_types(x.dtype, residual.dtype)
    y, total = (torch.empty(x.shape, dtype=dtype, device=x.device) for _ in range(2))
    mean, reciprocal = (torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device) for _ in range(2))
    _launch(x, residual, gamma, beta, eps, dropout, y, total, mean, reciprocal)
    return y, total, mean, reciprocal


def _launch(
    x: Tensor,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    dropout: Dropout,
    y: Tensor,
    total: Tensor | None = None,
    mean: Tensor | None = None,
    reciprocal: Tensor | None = None,
) -> None:
    if y.numel() == 0:
        return
    check_contiguous(gamma, beta)
    x_rows, residual_rows = rows_of(x), rows_of(residual)
    rows, channels = x_rows.shape
    (per_program, warps), cut = rows_per_program(channels), row_blocks(channels)
    launch(add_layer_norm_kernel, triton.cdiv(rows, per_program), x, warps)(
        x_rows,
        residual_rows,
        y,
        total,
        mean,
        reciprocal,
        rows,
        x_rows.stride(0),
        residual_rows.stride(0),
        gamma,
        beta,
        eps,
        *dropout.arguments,
        CHANNELS=channels,
        BLOCK=cut.block,
        BLOCKS=cut.blocks,
        ROWS=per_program,
        DROPOUT=dropout.p > 0.0,
        KEEP=total is not None,
    )
