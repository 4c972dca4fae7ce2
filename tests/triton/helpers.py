"""What the tests of the kernels share: inputs in the middle of NaNs, and the tolerance rule on their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.helpers import assert_within_rule, to_double

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)


def surrounded(values: Tensor) -> Tensor:
    """`values` in memory of its own, with NaNs before and after: what a kernel reads out of bounds shows."""
    room = torch.full((values.numel() + 512,), float("nan"), dtype=values.dtype, device=values.device)
    inside = room[256 : 256 + values.numel()].view(values.shape)
    inside.copy_(values)
    return inside


class Random:
    """Seeded normal tensors of one dtype on one device, in the middle of NaNs."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self._generator) * scale
        return surrounded(values.to(self.device, self.dtype))


def hold(
    actual: Tensor,
    reference: Callable[..., Tensor],
    arguments: Sequence[Any],
    exact: Sequence[Any] | None = None,
) -> None:
    """The tolerance rule for `actual`, given `reference(*arguments)`. exact: other arguments for the float64
    reference.
    """
    assert_within_rule(actual, reference(*arguments), reference(*to_double(list(exact or arguments))))
