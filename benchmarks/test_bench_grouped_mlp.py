"""`grouped_mlp` against its reference, for the base model's feed-forward block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.ops import reference

CHANNELS, HIDDEN, GROUPS = 768, 3072, 4


@pytest.mark.parametrize("tokens", [32, 128, 1024])
@pytest.mark.parametrize("mlp", [reference.grouped_mlp, ops.grouped_mlp], ids=["reference", "op"])
def test_grouped_mlp(benchmark: Any, mlp: Callable[..., Tensor], tokens: int) -> None:
    x = torch.randn(tokens, CHANNELS)
    weight_in, bias_in = torch.randn(HIDDEN, CHANNELS // GROUPS, 1), torch.randn(HIDDEN)
    weight_out, bias_out = torch.randn(CHANNELS, HIDDEN // GROUPS, 1), torch.randn(CHANNELS)
    benchmark.group = f"grouped_mlp {tokens} tokens"
    benchmark.extra_info["flops"] = 2 * tokens * (weight_in.numel() + weight_out.numel())
    benchmark(mlp, x, weight_in, bias_in, weight_out, bias_out, GROUPS, "gelu")
