"""`dropout` against its reference, for the base model's embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from squeezebert_fast import ops

CHANNELS = 768


@pytest.mark.parametrize("tokens", [32, 128, 1024])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_dropout(benchmark: Any, backend: str, tokens: int) -> None:
    x = torch.randn(tokens, CHANNELS)
    benchmark.group = f"dropout {tokens} tokens"
    benchmark.extra_info["bytes"] = 2 * x.nbytes
    benchmark(ops.dropout, x, 0.1, backend=backend)
