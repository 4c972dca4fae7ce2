"""The backward of `layer_norm(dropout(x) + residual)`, from the sum before the norm and its rows' statistics.

With n = (total - mean) * reciprocal and g = grad * gamma, row by row:

    of total = reciprocal * (g - mean(g) - n mean(g n))     of residual: the same; of x: times dropout's factors
    of gamma = sum over rows of grad n                      of beta = sum over rows of grad

A program takes a stretch of rows, a few at a time, and keeps its sums for gamma and beta in registers; the sums
of all programs are then added in order. So the same gradient has the same bits every time on one kind of GPU.

Bound by memory: the base model's row of 768 moves 6 KB in bfloat16 (grad, total, of x, of residual).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.dropout import Dropout, keep_factors
from squeezebert_fast.triton_kernels.launching import (
    check_contiguous,
    device_of,
    launch,
    power_of_two,
    rows_of,
)

PROGRAMS_PER_MULTIPROCESSOR = 4


@triton.jit(do_not_specialize=["rows", "rows_per_program", "threshold", "dropout_scale"])
def add_layer_norm_backward_kernel(
    grad,
    total,
    mean,
    reciprocal,
    gamma,
    of_x,
    of_residual,
    of_gamma,
    of_beta,
    rows,
    rows_per_program,
    grad_stride,
    total_stride,
    threshold: tl.uint32,
    dropout_scale,
    seed,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    DROPOUT: tl.constexpr,
    FOR_X: tl.constexpr,
    FOR_RESIDUAL: tl.constexpr,
    FOR_PARAMETERS: tl.constexpr,
):
    """of_x, of_residual: contiguous [rows, CHANNELS]; of_gamma, of_beta: [programs, CHANNELS]."""
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_CHANNELS)
    scale = tl.load(gamma + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    gamma_sums = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    beta_sums = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    first = program * rows_per_program
    for start in range(first, tl.minimum(first + rows_per_program, rows), ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        inside = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
        g = tl.load(grad + row[:, None] * grad_stride + channel[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        v = tl.load(total + row[:, None] * total_stride + channel[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        m = tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
        r = tl.load(reciprocal + row, mask=row < rows, other=0.0)[:, None]
        n = tl.where(inside, (v - m) * r, 0.0)
        if FOR_PARAMETERS:
            gamma_sums += tl.sum(g * n, 0)
            beta_sums += tl.sum(g, 0)
        if FOR_X or FOR_RESIDUAL:
            g *= scale
            d = (g - tl.sum(g, 1)[:, None] / CHANNELS - n * (tl.sum(g * n, 1)[:, None] / CHANNELS)) * r
            at = row[:, None] * CHANNELS + channel[None, :]
            if FOR_RESIDUAL:
                tl.store(of_residual + at, d.to(of_residual.dtype.element_ty), mask=inside)
            if FOR_X:
                if DROPOUT:
                    d *= keep_factors(row, 0, threshold, dropout_scale, seed, BLOCK_CHANNELS)
                tl.store(of_x + at, d.to(of_x.dtype.element_ty), mask=inside)
    if FOR_PARAMETERS:
        tl.store(of_gamma + program * CHANNELS + channel, gamma_sums, mask=channel < CHANNELS)
        tl.store(of_beta + program * CHANNELS + channel, beta_sums, mask=channel < CHANNELS)


def rows_per_step(channels: int) -> tuple[int, int]:
    """(rows, warps): 16 values a thread of each of the row's four tensors."""
    block = power_of_two(channels)
    warps = max(4, min(16, block // 256))
    return max(1, warps * 512 // block), warps


def add_layer_norm_backward(
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    reciprocal: Tensor,
    gamma: Tensor,
    dropout: Dropout,
    needs: tuple[bool, bool, bool, bool],
    x_dtype: torch.dtype,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, residual, gamma and beta, each where `needs` has True.

    grad: [..., channels]; total, mean and reciprocal are results of `add_layer_norm_with_statistics`, the last
    two contiguous. x's gradient is in x_dtype, residual's in total's dtype, both contiguous, the parameters'
    are float32.
    """
    check_contiguous(gamma, mean, reciprocal)
    for_x, for_residual, for_gamma, for_beta = needs
    channels = grad.shape[-1]
    of_x = torch.empty(grad.shape, dtype=x_dtype, device=grad.device) if for_x else None
    of_residual = torch.empty(grad.shape, dtype=total.dtype, device=grad.device) if for_residual else None
    grad_rows, total_rows = rows_of(grad), rows_of(total)
    rows = grad_rows.shape[0]
    step, warps = rows_per_step(channels)
    most = PROGRAMS_PER_MULTIPROCESSOR * device_of(grad).multiprocessors
    per_program = triton.cdiv(triton.cdiv(rows, most), step) * step
    programs = triton.cdiv(rows, max(per_program, 1))
    of_parameters = None
    if for_gamma or for_beta:
        of_parameters = torch.empty((2, programs, channels), dtype=torch.float32, device=grad.device)
    if rows > 0:
        launch(add_layer_norm_backward_kernel, programs, grad, warps)(
            grad_rows,
            total_rows,
            mean,
            reciprocal,
            gamma,
            of_x,
            of_residual,
            None if of_parameters is None else of_parameters[0],
            None if of_parameters is None else of_parameters[1],
            rows,
            per_program,
            grad_rows.stride(0),
            total_rows.stride(0),
            *dropout.arguments,
            CHANNELS=channels,
            BLOCK_CHANNELS=power_of_two(channels),
            ROWS=step,
            DROPOUT=dropout.p > 0.0,
            FOR_X=for_x,
            FOR_RESIDUAL=for_residual,
            FOR_PARAMETERS=of_parameters is not None,
        )
    of_gamma = of_beta = None
    if of_parameters is not None:
        of_gamma, of_beta = (sums.sum(0) for sums in of_parameters)
    return of_x, of_residual, of_gamma if for_gamma else None, of_beta if for_beta else None
