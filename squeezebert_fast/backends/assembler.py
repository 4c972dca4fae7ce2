"""Which ptxas turns Triton's kernels into machine code, and whether it can be trusted with them.

Every triton brings ptxas of some CUDA release; TRITON_PTXAS_PATH, or from 3.9 on TRITON_PTXAS_BLACKWELL_PATH, names
another. For compute capability 9 (H100, H200)
those before 13.3 may hand out registers that a tensor core is still reading: products are wrong, now and then,
silently (triton's issues 9433 and 11781). That needs kernels of a certain form, which ours don't have, and
benchmarks/machine_code.py finds it in machine code. CHECKED: the releases whose code for all shipped kernels was read.
"""

from __future__ import annotations

import re

CAPABILITY = 9
"""The major number of those GPUs whose tensor cores read operands from registers while the program goes on."""
MENDED = (13, 3)
CHECKED = ((12, 8), (12, 9), (13, 0), (13, 1), (13, 2))


def version(capability: tuple[int, int]) -> str | None:
    """Of the ptxas that triton takes for such a GPU, as "12.8.93"; None where there is none, or it doesn't run."""
    try:
        from triton.backends.nvidia.compiler import get_ptxas_version

        found = re.search(r"V(\d+\.\d+\.\d+)", get_ptxas_version(capability[0] * 10 + capability[1]))
    except Exception:  # no triton, no ptxas, a broken one: the probe of a kernel says what that means
        return None
    return found[1] if found else None


def refusal(capability: tuple[int, int]) -> str | None:
    """Why machine code that triton's ptxas makes for such a GPU isn't trusted, or None."""
    release = version(capability)
    if release is None or capability[0] != CAPABILITY or _release(release) >= MENDED:
        return None
    if _release(release) in CHECKED:
        return None
    checked = ", ".join(f"{major}.{minor}" for major, minor in CHECKED)
    return (
        f"triton assembles with ptxas {release}; before 13.3 it may overwrite what a tensor core still reads, and the "
        f"kernels are checked with {checked} alone: install triton 3.9 or later, or set TRITON_PTXAS_PATH (from triton "
        "3.9 on TRITON_PTXAS_BLACKWELL_PATH) to the ptxas of CUDA 13.3 or later"
    )


def described(capability: tuple[int, int]) -> str:
    """The assembler for such a GPU, in a line of `doctor`."""
    release = version(capability)
    if release is None:
        return "ptxas of an unknown version"
    if capability[0] != CAPABILITY or _release(release) >= MENDED:
        return f"ptxas {release}"
    return f"ptxas {release}, before 13.3: the kernels' machine code is checked with this release"


def _release(text: str) -> tuple[int, int]:
    major, minor, _ = text.split(".")
    return int(major), int(minor)
