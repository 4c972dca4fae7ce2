"""`qkv_projection` against its reference, for the base model's queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.ops import reference

CHANNELS, GROUPS = 768, 4


@pytest.mark.parametrize("tokens", [32, 128, 1024])
@pytest.mark.parametrize(
    "projection", [reference.qkv_projection, ops.qkv_projection], ids=["reference", "op"]
)
def test_qkv_projection(benchmark: Any, projection: Callable[..., tuple[Tensor, ...]], tokens: int) -> None:
    x = torch.randn(tokens, CHANNELS)
    shapes = [(CHANNELS, CHANNELS // GROUPS, 1), (CHANNELS,)] * 3
    parameters = [torch.randn(shape) for shape in shapes]
    benchmark.group = f"qkv_projection {tokens} tokens"
    benchmark.extra_info["flops"] = 2 * tokens * sum(p.numel() for p in parameters if p.dim() == 3)
    benchmark(projection, x, *parameters, GROUPS)
