"""What the kernels of a backend apply to a product themselves."""

from __future__ import annotations

from collections.abc import Container

from squeezebert_fast import triton_kernels
from squeezebert_fast.backends import cpu

FUSED_ACTIVATIONS: dict[str, Container[str | None]] = {
    "cpu": cpu.FUSED_ACTIVATIONS,
    "triton": triton_kernels.FUSED_ACTIVATIONS,
}
"""Names of activations, and None, by the backends that have kernels."""
