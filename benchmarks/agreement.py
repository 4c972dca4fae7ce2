"""Whether an engine computes the model: nothing is timed before this has said yes."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-4
"""Largest difference in float32 that is rounding, as a fraction of the largest output; 2e-6 is usual."""

COSINE = 0.99
"""What every token's output in bfloat16 and int8 must reach. Their rounding leaves 0.999 and more of these models; a
wrong group, scale, mask or activation in all layers, or a layer left out, falls below. Accuracy itself is for
`benchmarks.accuracy` to tell."""


class WrongEngine(Exception):
    """An engine's output is not the model's."""


def check(what: str, precision: str, actual: Tensor, expected: Tensor, attention_mask: Tensor) -> None:
    """Raise WrongEngine unless `actual` agrees with eager's float32 output as well as `precision` can.

    actual, expected: [batch, tokens, channels]. Padding, which attention_mask [batch, tokens] leaves out, is free.
    """
    if actual.shape != expected.shape:
        raise WrongEngine(f"{what}: output is {list(actual.shape)}, eager's is {list(expected.shape)}")
    real = attention_mask != 0
    actual, expected = actual[real].float(), expected[real]
    if precision == "float32":
        difference, limit = (actual - expected).abs().max().item(), ROUNDING * expected.abs().max().item()
        if not difference <= limit:  # NaN is wrong too
            raise WrongEngine(
                f"{what}: output differs from eager by {difference:.3g}, expected at most {limit:.3g}"
            )
    else:
        cosine = torch.nn.functional.cosine_similarity(actual, expected, dim=-1).min().item()
        if not cosine >= COSINE:
            raise WrongEngine(f"{what}: a token's cosine with eager's is {cosine:.4f}, expected {COSINE}")
