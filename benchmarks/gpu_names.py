"""What `benchmarks.gpu_check` calls its candidates: who measures them and who reads the results must agree."""

from __future__ import annotations

PRODUCT, COPY = "square product", "copy"
"""The two ceilings."""

SHIPPED, TORCH = "shipped", "torch"
"""Of a kernel: our own choice of a tile, and PyTorch's operations."""

EAGER, PATCHED, OURS = "transformers eager", "transformers, patched", "squeezebert_fast"
GRAPHS = f"{OURS}, CUDA graphs"
BMM = "torch.bmm and SDPA"
COMPILED = "torch.compile of "
"""And what was compiled."""
