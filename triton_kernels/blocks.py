"""Extents that are no power of two, as tuples of blocks that are: 768 channels are 3 x 256, 192 are 3 x 64."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def appended(blocks, block):
    """The tuple with one more; Triton has no `(*blocks, block)`."""
    return blocks + (block,)  # noqa: RUF005


@triton.jit
def zero_sums(BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """BLOCKS float32 [ROWS, COLUMNS]."""
    sums = ()
    for _ in tl.static_range(BLOCKS):
        sums = appended(sums, tl.zeros((ROWS, COLUMNS), tl.float32))
    return sums
