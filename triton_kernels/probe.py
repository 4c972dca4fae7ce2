"""`run`: the smallest kernel that needs all that the others need: compiler, assembler, driver, launch, tensor cores.

    out[64, 64] = (a + 1) b, by four steps of 64 in bfloat16: one program of four warps, which on Hopper multiply by
    wgmma, with a + 1 in registers as softmax's weights and activations are

`squeezebert_fast.backends.triton` runs it once for each device before it names any kernel as able to serve there.
Operands are small integers, so the product is exact, and an assembler that gets tensor cores wrong fails here.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from squeezebert_fast.triton_kernels.launching import launch

SIZE, STEPS = 64, 4


@triton.jit
def probe_kernel(a, b, out, SIZE: tl.constexpr, STEPS: tl.constexpr):
    """a: [SIZE, STEPS * SIZE], b: [STEPS * SIZE, SIZE]."""
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    sums = tl.zeros((SIZE, SIZE), tl.float32)
    for step in range(STEPS):
        left = tl.load(a + row * (STEPS * SIZE) + step * SIZE + column)
        right = tl.load(b + (step * SIZE + row) * SIZE + column)
        sums = tl.dot((left.to(tl.float32) + 1.0).to(tl.bfloat16), right, sums)
    tl.store(out + row * SIZE + column, sums)


def run(device: torch.device) -> str | None:
    """Compile and launch; what is wrong with the result, or None. Raises whatever triton raises. Waits for the GPU."""
    numbers = torch.arange(SIZE * STEPS * SIZE, device=device)
    a = (numbers * 7 % 11 - 5).view(SIZE, -1)
    b = (numbers * 5 % 13 - 6).view(-1, SIZE)
    out = torch.full((SIZE, SIZE), torch.nan, dtype=torch.float32, device=device)
    launch(probe_kernel, 1, out, 4, 3)(a.bfloat16(), b.bfloat16(), out, SIZE=SIZE, STEPS=STEPS)
    # not by PyTorch's own product: for integers there is none on a GPU, and the others may use what is probed
    exact = ((a + 1)[:, :, None] * b[None]).sum(1)
    return None if torch.equal(out, exact.float()) else "it computed a wrong product"
