"""`grouped_pointwise_conv` against its reference, for the convolutions of the base model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ops
from squeezebert_fast.ops import reference

# in_channels, out_channels, groups, activation
LAYERS = {
    "query": (768, 768, 4, None),
    "post_attention": (768, 768, 1, None),
    "intermediate": (768, 3072, 4, "gelu"),
    "output": (3072, 768, 4, None),
}


@pytest.mark.parametrize("tokens", [32, 128, 1024])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "conv", [reference.grouped_pointwise_conv, ops.grouped_pointwise_conv], ids=["reference", "op"]
)
def test_grouped_pointwise_conv(benchmark: Any, conv: Callable[..., Tensor], layer: str, tokens: int) -> None:
    in_channels, out_channels, groups, activation = LAYERS[layer]
    x = torch.randn(tokens, in_channels)
    weight, bias = torch.randn(out_channels, in_channels // groups, 1), torch.randn(out_channels)
    benchmark.group = f"grouped_pointwise_conv {layer} {tokens} tokens"
    benchmark.extra_info["flops"] = 2 * tokens * weight.numel()
    benchmark(conv, x, weight, bias, groups, activation)
