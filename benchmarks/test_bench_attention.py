"""`attention` against its reference, for the base model's heads, with a padding mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.ops import reference

CHANNELS, HEADS = 768, 12


@pytest.mark.parametrize(("batch", "tokens"), [(1, 32), (1, 128), (8, 128), (1, 512)])
@pytest.mark.parametrize("attention", [reference.attention, ops.attention], ids=["reference", "op"])
def test_attention(benchmark: Any, attention: Callable[..., Tensor], batch: int, tokens: int) -> None:
    q, k, v = torch.randn(3, batch, tokens, CHANNELS)
    mask = torch.zeros(batch, 1, 1, tokens)
    mask[-1, ..., -(tokens // 4) :] = torch.finfo(torch.float32).min
    benchmark.group = f"attention {batch}x{tokens}"
    benchmark.extra_info["flops"] = 4 * batch * tokens * tokens * CHANNELS
    benchmark(attention, q, k, v, mask, HEADS)
