"""`add_layer_norm` against its reference, for the base model's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.ops import reference

CHANNELS = 768


@pytest.mark.parametrize("tokens", [32, 128, 1024])
@pytest.mark.parametrize("norm", [reference.add_layer_norm, ops.add_layer_norm], ids=["reference", "op"])
def test_add_layer_norm(benchmark: Any, norm: Callable[..., Tensor], tokens: int) -> None:
    x, residual = torch.randn(2, tokens, CHANNELS)
    weight, bias = torch.randn(2, CHANNELS)
    benchmark.group = f"add_layer_norm {tokens} tokens"
    benchmark.extra_info["bytes"] = 3 * x.nbytes
    benchmark(norm, x, residual, weight, bias)
