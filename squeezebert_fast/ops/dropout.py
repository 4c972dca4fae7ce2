"""The seed of a kernel's dropout."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_seed(dropout_p: float, device: torch.device) -> Tensor | None:
    """An int64 [] from PyTorch's default generator of `device`, or None, and nothing drawn, where nothing is dropped.

    A kernel's mask is a function of the seed, so `torch.manual_seed` governs it, and gradient checkpointing, which
    puts the generator's state back, replays it. A tensor, since under torch.compile each run of the graph must draw.
    """
    if dropout_p == 0.0:
        return None
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
