"""Whether an engine computes the model: nothing is timed before this has said yes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDING = 1e-4
"""Largest difference in float32 that is rounding, as a fraction of the largest output; 2e-6 is usual."""

COSINE = 0.99
"""What every token's output in bfloat16 and int8 must reach. Their rounding leaves 0.999 and more of these models; a
wrong group, scale, mask or activation in all layers, or a layer left out, falls below. Accuracy itself is for
`benchmarks.accuracy` to tell."""

EMBEDDING_COSINES = {"float32": 0.9999, "bfloat16": 0.99, "int8": 0.95}
"""What every sentence's vector must reach, by precision. Outliers of trained weights cost int8 more than rounding does
random ones: ONNX Runtime leaves 0.965 of the worst sentence of SST-2."""

FLOOR_ULPS = 4
"""Of a gradient's norm, so many units in the last place are rounding that nobody need account for."""

NEGLIGIBLE = 1e-2
"""A gradient whose norm is below this fraction of the largest is held against that fraction: that of a bias of the
keys is 0, as it changes no probability, and what is computed of it is rounding."""


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


def check_embeddings(
    what: str, precision: str, actual: NDArray[np.float32], expected: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The cosine of each sentence's vector with eager's float32 one, [sentences].

    actual, expected: [sentences, channels]. Raises WrongEngine unless all are as near as `precision` can be.
    """
    if actual.shape != expected.shape:
        raise WrongEngine(f"{what}: embeddings are {list(actual.shape)}, torch's {list(expected.shape)}")
    norms = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (actual * expected).sum(axis=1) / norms
    least, limit = cosines.min().item(), EMBEDDING_COSINES[precision]
    if not least >= limit:  # NaN is wrong too
        raise WrongEngine(f"{what}: a sentence's cosine with torch's is {least:.4f}, expected {limit}")
    return cosines


def check_gradients(
    what: str,
    precision: str,
    actual: Mapping[str, Tensor],
    same_precision: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
) -> None:
    """Raise WrongEngine unless `actual` is at most about twice as far from `exact` as PyTorch's own gradients are.

    By parameter: same_precision are eager's in the same precision, exact are eager's in float64. Errors are norms of
    differences. This is the rule of the tests; two engines that round differently say little about each other.
    """
    if actual.keys() != exact.keys():
        raise WrongEngine(f"{what}: other parameters have a gradient than eager's")
    floor = FLOOR_ULPS * torch.finfo(getattr(torch, precision)).eps
    least = NEGLIGIBLE * max(gradient.norm().item() for gradient in exact.values())
    for name, gradient in exact.items():
        norm = max(gradient.norm().item(), least)
        ours, theirs = (
            (each[name].double() - gradient).norm().item() / norm for each in (actual, same_precision)
        )
        if not ours <= 2 * theirs + floor:  # NaN is wrong too
            raise WrongEngine(
                f"{what}: the gradient of {name} is off by {ours:.3g} of its norm, eager's by {theirs:.3g}; "
                f"expected at most {2 * theirs + floor:.3g}"
            )
