"""Triton kernels, for GPUs. See triton_kernels/."""

from __future__ import annotations

from squeezebert_fast.backends.request import Request
from squeezebert_fast.triton_kernels import OPERATIONS, unavailable_reason

NAME = "triton"


def refusal(request: Request) -> str | None:
    """Why this backend can't serve `request`, or None."""
    return unavailable_reason(request.operation) or request.obstacle


__all__ = ["NAME", "OPERATIONS", "refusal"]
