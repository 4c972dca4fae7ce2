"""y = layer_norm(dropout(x) + residual), and the same over rows that another kernel has just written.

    channels, padded to a power of two
    +------------------------------+
    |  a few rows, in registers    |   mean, then the mean square of the differences from it, as PyTorch does
    +------------------------------+

Bound by memory: the base model's row of 768 moves 4.6 KB in bfloat16 (x, residual, y) for 8 FLOP a channel.
The quarter of lanes beyond 768 issue masked loads that move nothing.

`finish_rows` does the same at the end of passes B and C: their rows are too wide for registers, so they write
the products to y and come back for them, which the L2 cache serves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.dropout import Dropout, dropped
from squeezebert_fast.triton_kernels.launching import check_contiguous, on_device_of, power_of_two, rows_of


@triton.jit
def normalized(
    v,
    channel,
    gamma,
    beta,
    eps,
    CHANNELS: tl.constexpr,
):
    """(LayerNorm of the rows of v, their means, their reciprocal deviations). Columns past CHANNELS must be
    zero in v.
    """
    mean = tl.sum(v, 1) / CHANNELS
    difference = tl.where(channel[None, :] < CHANNELS, v - mean[:, None], 0.0)
    deviation = tl.sqrt_rn(tl.sum(difference * difference, 1) / CHANNELS + eps)
    scale = tl.load(gamma + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    shift = tl.load(beta + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    reciprocal = 1.0 / deviation
    return difference * reciprocal[:, None] * scale[None, :] + shift[None, :], mean, reciprocal


@triton.jit
def add_layer_norm_rows(
    x,
    x_stride,
    residual,
    residual_stride,
    y,
    row,
    rows,
    gamma,
    beta,
    eps,
    mean_out,
    reciprocal_out,
    p,
    dropout_scale,
    seed,
    offset,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP_STATISTICS: tl.constexpr,
):
    """The rows `row`, an int64 block, of y; x may be y itself."""
    channel = tl.arange(0, BLOCK_CHANNELS)
    inside = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
    v = tl.load(x + row[:, None] * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        v = dropped(v, row.to(tl.int32)[:, None], channel[None, :], p, dropout_scale, seed, offset)
    v += tl.load(residual + row[:, None] * residual_stride + channel[None, :], mask=inside, other=0.0).to(
        tl.float32
    )
    v, mean, reciprocal = normalized(v, channel, gamma, beta, eps, CHANNELS)
    tl.store(y + row[:, None] * CHANNELS + channel[None, :], v.to(y.dtype.element_ty), mask=inside)
    if KEEP_STATISTICS:
        tl.store(mean_out + row, mean, mask=row < rows)
        tl.store(reciprocal_out + row, reciprocal, mask=row < rows)


@triton.jit
def finish_rows(
    y,
    residual,
    residual_stride,
    first_row,
    rows,
    gamma,
    beta,
    eps,
    mean_out,
    reciprocal_out,
    p,
    dropout_scale,
    seed,
    offset,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_AT_ONCE: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP_STATISTICS: tl.constexpr,
):
    """`add_layer_norm` in place of ROWS rows of y that this program wrote; waits until all its threads have."""
    tl.debug_barrier()  # the threads that read a row are not those that wrote it
    for start in range(0, ROWS, ROWS_AT_ONCE):
        add_layer_norm_rows(
            y, CHANNELS, residual, residual_stride, y, first_row + start + tl.arange(0, ROWS_AT_ONCE), rows,
            gamma, beta, eps, mean_out, reciprocal_out, p, dropout_scale, seed, offset,
            CHANNELS, BLOCK_CHANNELS, DROPOUT, KEEP_STATISTICS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "p", "dropout_scale", "seed", "offset"])
def add_layer_norm_kernel(
    x,
    residual,
    y,
    rows,
    x_stride,
    residual_stride,
    gamma,
    beta,
    eps,
    mean_out,
    reciprocal_out,
    p,
    dropout_scale,
    seed: tl.int64,
    offset: tl.int64,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP_STATISTICS: tl.constexpr,
):
    add_layer_norm_rows(
        x, x_stride, residual, residual_stride, y, tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), rows,
        gamma, beta, eps, mean_out, reciprocal_out, p, dropout_scale, seed, offset,
        CHANNELS, BLOCK_CHANNELS, DROPOUT, KEEP_STATISTICS,
    )  # fmt: skip


Statistics = tuple[Tensor, Tensor]
"""Of each row, float32 [...]: the mean, and the reciprocal of the standard deviation, of what LayerNorm was
applied to.
"""


def empty_statistics(x: Tensor, keep: bool) -> Statistics | tuple[None, None]:
    """Room for the statistics of x's rows, or nothing."""
    if not keep:
        return None, None
    shape = x.shape[:-1]
    return (
        torch.empty(shape, dtype=torch.float32, device=x.device),
        torch.empty(shape, dtype=torch.float32, device=x.device),
    )


def rows_per_program(channels: int) -> tuple[int, int]:
    """(rows, warps): some 4096 values a program, 32 a thread, enough loads in flight to hide the memory's
    latency.
    """
    block = power_of_two(channels)
    return max(1, 4096 // block), max(4, min(16, block // 1024))


def rows_at_once(channels: int, rows: int, warps: int) -> int:
    """How many of a program's `rows` `finish_rows` takes at a time: 16 values a thread, beside which gamma
    and beta stay in registers.
    """
    return max(1, min(rows, warps * 512 // power_of_two(channels)))


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    dropout: Dropout | None = None,
    *,
    keep_statistics: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """`layer_norm(dropout(x) + residual) * gamma + beta` over the last axis.

    x, residual: [..., channels], float32, bfloat16 or float16. gamma, beta: [channels], contiguous, any of
    these dtypes. Returns [..., channels] in x's dtype, contiguous; with `keep_statistics` also `Statistics`.
    Everything between load and store is float32.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean, reciprocal = empty_statistics(x, keep_statistics)
    if y.numel() > 0:
        check_contiguous(gamma, beta)
        x_rows, residual_rows = rows_of(x), rows_of(residual)
        rows, channels = x_rows.shape
        per_program, warps = rows_per_program(channels)
        drop = dropout or Dropout(0.0, 0)
        with on_device_of(x):
            add_layer_norm_kernel[(triton.cdiv(rows, per_program),)](
                x_rows,
                residual_rows,
                y,
                rows,
                x_rows.stride(0),
                residual_rows.stride(0),
                gamma,
                beta,
                eps,
                mean,
                reciprocal,
                *drop.arguments,
                CHANNELS=channels,
                BLOCK_CHANNELS=power_of_two(channels),
                ROWS=per_program,
                DROPOUT=drop.p > 0.0,
                KEEP_STATISTICS=keep_statistics,
                num_warps=warps,
            )
    return (y, mean, reciprocal) if mean is not None and reciprocal is not None else y
