"""What the pytest benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """Operations are measured as inference calls them, on the same random tensors each time."""
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
