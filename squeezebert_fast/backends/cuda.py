"""CUDA C++ kernels, for NVIDIA GPUs."""

from __future__ import annotations

from squeezebert_fast.backends.request import Request

NAME = "cuda"
OPERATIONS: frozenset[str] = frozenset()


def refusal(request: Request) -> str | None:
    """Why this backend can't serve `request`, or None."""
    return f"no CUDA kernel for {request.operation} in this version"
