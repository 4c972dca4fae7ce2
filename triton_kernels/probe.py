"""`run`: the smallest kernel that needs all that the others need: a compiler, a driver, a launch, a tensor core.

    out[16, 16] = a[16, 16] b[16, 16], one program

`squeezebert_fast.backends.triton` runs it once for each device before it names any kernel as able to serve there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _probe_kernel(a, b, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at), input_precision="ieee"))


def run(device: torch.device) -> str | None:
    """Compile and launch; what is wrong with the result, or None. Raises whatever triton raises. Waits for the GPU."""
    size = 16
    a = torch.arange(size * size, dtype=torch.float32, device=device).view(size, size)
    b = torch.eye(size, device=device) * 2.0
    out = torch.full_like(a, torch.nan)
    _probe_kernel[(1,)](a, b, out, SIZE=size)
    return None if torch.equal(out, 2.0 * a) else "it computed a wrong product"
