"""int8 of activations: value = integer x scale, |integer| <= 127, one scale for each row and part of its channels.

    x, one row       | part 0 | part 1 | ...     largest magnitude of the part / 127 -> scale
    as integers      | part 0 | part 1 | ...     round(value / scale), half to even

The scheme of the CPU engine (`squeezebert_fast/backends/quantized.py`, `csrc/kernels/formats.h`): a part is a
group, or a block of it. A NaN or infinity in a part makes its scale NaN, and so every result that it has a
share in. One program makes one part of a few rows. Bound by memory: a token of the base model moves 1.5 KB in
bfloat16 and 0.75 KB of integers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.launching import launch, power_of_two, rows_of


@triton.jit(do_not_specialize=["rows"])
def quantize_rows_kernel(
    x,
    integers,
    scales,
    rows,
    x_stride,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """x: rows of x_stride elements. integers: contiguous [rows, PARTS * SIZE]; scales: contiguous [rows, PARTS]."""
    program = tl.program_id(0)
    part = program % PARTS
    row = (program // PARTS).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (channel < SIZE)[None, :]
    v = tl.load(x + row[:, None] * x_stride + (part * SIZE + channel)[None, :], mask=inside, other=0.0)
    v = v.to(tl.float32)
    bound = tl.max(tl.abs(v), 1)
    poison = tl.sum(v * 0.0, 1)  # NaN for infinities and NaNs, which the maximum may lose
    inverse = tl.where(bound > 1e-36, 127.0 / bound, 0.0)  # the quotient of a tiny bound would be infinite
    # 1.5 * 2^23: sums of that size have no fraction, and are rounded half to even
    rounded = (v * inverse[:, None] + 12582912.0) - 12582912.0
    rounded = tl.where(rounded == rounded, tl.minimum(tl.maximum(rounded, -127.0), 127.0), 0.0)
    at = integers + row[:, None] * (PARTS * SIZE) + (part * SIZE + channel)[None, :]
    tl.store(at, rounded.to(tl.int8), mask=inside)
    tl.store(scales + row * PARTS + part, bound / 127.0 + poison, mask=row < rows)


def quantize_rows(x: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """int8 [..., channels] and float32 scales [..., parts] of x, [..., channels]; parts divides channels."""
    x_rows = rows_of(x)
    rows, channels = x_rows.shape
    integers = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scales = torch.empty((*x.shape[:-1], parts), dtype=torch.float32, device=x.device)
    if integers.numel() > 0:
        size = channels // parts
        block = power_of_two(size)
        per_program = max(1, 4096 // block)
        launch(quantize_rows_kernel, triton.cdiv(rows, per_program) * parts, x, 4)(
            x_rows,
            integers,
            scales,
            rows,
            x_rows.stride(0),
            PARTS=parts,
            SIZE=size,
            BLOCK=block,
            ROWS=per_program,
        )
    return integers, scales
