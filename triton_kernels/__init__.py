"""GPU kernels in Triton. Installed as `squeezebert_fast.triton_kernels`; never import it as a bare top-level name.

One file per kernel, named as its operation in `squeezebert_fast.ops` and its C++ twin in `csrc/kernels/`, imported only
when `unavailable_reason()` is None: this module itself imports without triton and without a GPU.
"""

from __future__ import annotations

import importlib.util

OPERATIONS: frozenset[str] = frozenset()
"""Names of the operations that have a kernel here."""


def unavailable_reason(operation: str) -> str | None:
    """Why `operation` can't run on a Triton kernel here, or None if it can."""
    if operation not in OPERATIONS:
        return f"no Triton kernel for {operation} in this version"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None
