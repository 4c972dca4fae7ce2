"""The int8 form of weights: symmetric, a scale for each output channel (or row of a table) and block of inputs.

csrc/core/packed_segments.cpp quantizes in the same way when it packs float32 weights, to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_forms = WeakTensorKeyDictionary()


BLOCK = 192
"""Most input channels that share a scale: what a group of the base model has."""
FINE_BLOCK = 64
"""The same for the inputs of a single group's attention and feed-forward block. A row that LayerNorm made has a few
channels far larger than the rest: groups keep them from most of the others, blocks do where there is one group."""


_ROWS = 1024  # quantized at a time, so that a vocabulary's floats are never copied as a whole


def blocks_of(channels: int, groups: int, most: int) -> int:
    """Into how many equal blocks of at most `most` a group's channels are cut; 1 where only tiny ones are equal."""
    size = channels // groups
    for blocks in range(-(-size // most), size // (most // 4) + 1):
        if size % blocks == 0:
            return blocks
    return 1


def quantize(weight: Tensor, blocks: int = 1) -> tuple[Tensor, Tensor]:
    """int8 of `weight`'s shape, and float32 scales [weight.shape[0], blocks] for equal parts of its rows.

    Integers are in [-127, 127]. A part with a NaN or infinity gets the scale NaN.
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    ints = torch.empty(rows.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty((weight.shape[0], blocks), dtype=torch.float32, device=weight.device)
    for begin in range(0, len(rows), _ROWS):
        some = slice(begin, begin + _ROWS)
        parts = rows[some].float().unflatten(1, (blocks, -1))
        bound = parts.abs().amax(2)
        # a quotient of tensors: a number over a tensor is computed as a product with the reciprocal, rounded twice
        inverse = torch.where(bound > 1e-36, torch.full_like(bound, 127.0) / bound, 0.0)
        rounded = (parts * inverse[..., None]).round_().nan_to_num_(0.0, 0.0, 0.0).clamp_(-127, 127)
        ints[some] = rounded.flatten(1).to(torch.int8)
        scale[some] = torch.where(parts.isfinite().all(2), bound / 127.0, torch.nan)
    return ints.reshape(weight.shape), scale


def dequantize(ints: Tensor, scale: Tensor) -> Tensor:
    """What the result of `quantize` stands for: float32 of the shape of `ints`. Quantized again it is the same."""
    rows, blocks = scale.shape
    return (ints.reshape(rows, blocks, -1).float() * scale[..., None]).reshape(ints.shape)


def form_of(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The int8 form that stands for a weight on the meta device (`stand_in`), until it is packed."""
    return _forms.get(weight)


def stand_in(weight: Tensor, ints: Tensor, scale: Tensor) -> None:
    """Let contiguous `ints` and `scale`, as from `quantize`, stand for `weight`, which has no values of its own."""
    _forms[weight] = (ints, scale)


def drop(weight: Tensor) -> None:
    """Free the form that stands for `weight`."""
    _forms.pop(weight, None)
