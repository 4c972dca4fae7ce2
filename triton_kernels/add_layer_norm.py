"""y = layer_norm(dropout(x) + residual), and without dropout over rows that another kernel has just written.

    channels, padded to a power of two
    +------------------------------+
    |  a few rows, in registers    |   mean, then the mean square of the differences from it, as PyTorch does
    +------------------------------+

Bound by memory: the base model's row of 768 moves 4.6 KB in bfloat16 (x, residual, y) for 8 FLOP a channel.
The quarter of lanes beyond 768 issue masked loads that move nothing.

For a backward (add_layer_norm_backward.py) the sum before the norm and its rows' statistics are kept.

`finish_rows` does the same at the end of passes B and C: their rows are too wide for registers, so they write
the products to y and come back for them, which the L2 cache serves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout, keep_factors
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
    x, x_stride, residual, residual_stride, y, row, rows, gamma, beta, eps, total, mean_out, reciprocal_out,
    threshold, dropout_scale, seed,
    CHANNELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, DROPOUT: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """The rows `row`, an int64 block, of y; x may be y itself. KEEP: total, [rows, CHANNELS], is what the norm is
    applied to; the other two get the means and reciprocal deviations of its rows.
    """
    channel = tl.arange(0, BLOCK_CHANNELS)
    inside = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
    v = tl.load(x + row[:, None] * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        v *= keep_factors(row, 0, threshold, dropout_scale, seed, BLOCK_CHANNELS)
    v += tl.load(residual + row[:, None] * residual_stride + channel[None, :], mask=inside, other=0.0).to(
        tl.float32
    )
    at = row[:, None] * CHANNELS + channel[None, :]
    if KEEP:
        tl.store(total + at, v.to(total.dtype.element_ty), mask=inside)
    v, mean, reciprocal = normalized(v, channel, gamma, beta, eps, CHANNELS)
    tl.store(y + at, v.to(y.dtype.element_ty), mask=inside)
    if KEEP:
        tl.store(mean_out + row, mean, mask=row < rows)
        tl.store(reciprocal_out + row, reciprocal, mask=row < rows)


@triton.jit
def finish_rows(
    y, residual, residual_stride, first_row, rows, gamma, beta, eps,
    CHANNELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, ROWS: tl.constexpr, ROWS_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """`add_layer_norm` in place of ROWS rows of y that this program wrote; waits until all its threads have."""
    tl.debug_barrier()  # the threads that read a row are not those that wrote it
    for start in range(0, ROWS, ROWS_AT_ONCE):
        add_layer_norm_rows(
            y, CHANNELS, residual, residual_stride, y, first_row + start + tl.arange(0, ROWS_AT_ONCE), rows,
            gamma, beta, eps, None, None, None, 0, 1.0, None, CHANNELS, BLOCK_CHANNELS, False, False,
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
    BLOCK_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP: tl.constexpr,
):
    add_layer_norm_rows(
        x, x_stride, residual, residual_stride, y, tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), rows,
        gamma, beta, eps, total, mean_out, reciprocal_out, threshold, dropout_scale, seed,
        CHANNELS, BLOCK_CHANNELS, DROPOUT, KEEP,
    )  # fmt: skip


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
    per_program, warps = rows_per_program(channels)
    with on_device_of(x):
        add_layer_norm_kernel[(triton.cdiv(rows, per_program),)](
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
            BLOCK_CHANNELS=power_of_two(channels),
            ROWS=per_program,
            DROPOUT=dropout.p > 0.0,
            KEEP=total is not None,
            num_warps=warps,
        )
