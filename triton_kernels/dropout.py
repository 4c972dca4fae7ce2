"""Dropout whose mask is never stored: a function of the seed, the offset and the element's place.

A kernel that recomputes a pass, or differentiates it, hands in the same `Dropout` and gets the same mask,
whatever tiles it works in. The generator is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", SC 2011) with the seed as key and (column, row, offset's low half, offset's high half) as
counter. So two calls that share a seed are independent when their offsets differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl


@dataclass(frozen=True)
class Dropout:
    """Zero each element with probability p, in [0, 1], and multiply the rest by 1 / (1 - p).

    seed, offset: any integers that fit 64 bits. An element is named by its row and column: of a hidden row,
    the token and the channel; of an attention matrix, row (sequence * heads + head) * queries + query
    (packed: head * tokens + token) and the key's place in its sequence.
    """

    p: float
    seed: int
    offset: int = 0

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by."""
        return 1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0

    @property
    def arguments(self) -> tuple[float, float, int, int]:
        """What a kernel takes: p, scale, seed, offset."""
        return self.p, self.scale, self.seed, self.offset


@triton.jit
def dropped(x, rows, columns, p, scale, seed, offset):
    """x, a block, after dropout. rows, columns: int32 blocks that broadcast to x's shape."""
    zero = tl.zeros(x.shape, tl.int32)
    offset = offset.to(tl.int64)  # the interpreter makes a small integer an int32
    low = (offset & 0xFFFFFFFF).to(tl.uint32)
    high = ((offset >> 32) & 0xFFFFFFFF).to(tl.uint32)
    bits, _, _, _ = tl.philox(
        seed, columns + zero, rows + zero, low + zero.to(tl.uint32), high + zero.to(tl.uint32)
    )
    return tl.where(tl.uint_to_uniform_float(bits) >= p, x * scale, 0.0)
