"""Dropout whose mask is never stored: a function of the seed and the element's place, the same as on the CPU.

A backward, or a forward that gradient checkpointing runs again, hands in the same `Dropout` and gets the same
mask, whatever tiles it works in. The generator is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) with the seed as key and (column / 4, row, row's high half, 0) as counter; its four
numbers are those of four neighbouring columns (csrc/kernels/dropout.h). Ten rounds of some eight integer
instructions for four numbers are 20 instructions for an element: with attention's dropout that is more than
its softmax takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """Zero each element with probability p, in [0, 1], and multiply the rest by 1 / (1 - p).

    seed: int64 [] on the device of the kernel's tensors, so that nothing waits for it and a CUDA graph may draw it
    anew; None where p is 0. An element is named by its row and column: of a hidden row, the token and the channel;
    of an attention matrix, row (sequence * heads + head) * queries + query, and the key's place in its sequence.
    """

    p: float
    seed: Tensor | None

    @property
    def arguments(self) -> tuple[int, float, Tensor | None]:
        """What a kernel takes: the smallest number that keeps an element, what that is multiplied by, the seed."""
        threshold = min(max(round(self.p * 2**32), 1), 2**32 - 1)
        return threshold, 1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0, self.seed


NO_DROPOUT = Dropout(0.0, None)


@triton.jit
def keep_factors(
    rows, first_column, threshold, scale, seed, COLUMNS: tl.constexpr, COLUMNS_FIRST: tl.constexpr = False
):
    """What dropout multiplies elements by, float32 [rows, COLUMNS] or [COLUMNS, rows]: 0 or the scale.

    rows: int64 [rows]. seed: a pointer to it. first_column: the first of the COLUMNS, both multiples of 4.
    """
    quads = first_column // 4 + tl.arange(0, COLUMNS // 4)
    low = (rows & 0xFFFFFFFF).to(tl.uint32)
    high = ((rows >> 32) & 0xFFFFFFFF).to(tl.uint32)
    if COLUMNS_FIRST:
        quad, low, high = quads.to(tl.uint32)[:, None], low[None, :], high[None, :]
    else:
        quad, low, high = quads.to(tl.uint32)[None, :], low[:, None], high[:, None]
    zero = (quad ^ quad) + (low ^ low)
    a, b, c, d = tl.philox(tl.load(seed), quad + zero, low + zero, high + zero, zero)
    bits = tl.join(
        tl.join(a, c), tl.join(b, d)
    )  # the last two axes: which half of four columns, and which of that
    if COLUMNS_FIRST:
        bits = tl.reshape(tl.permute(bits, (0, 2, 3, 1)), (COLUMNS, rows.shape[0]))
    else:
        bits = tl.reshape(bits, (rows.shape[0], COLUMNS))
    return tl.where(bits < threshold.to(tl.uint32), 0.0, scale)
