"""The encoder's reduced precisions in plain PyTorch: what is rounded, where and by which scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.activations import apply_activation
from squeezebert_fast.backends import cpu
from squeezebert_fast.patching.engines import layer_of
from squeezebert_fast.patching.plan import encoder_family

Round = Callable[[Tensor, int], Tensor]
"""Rounds the last axis of a tensor, group by group."""


def quantized(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """int8 by symmetric scales: integers of x's shape, and the scale of each row and group.

    In float32, each operation rounded as IEEE says: the same integers as the kernels'.
    """
    parts = x.float().unflatten(-1, (groups, -1))
    bound = parts.abs().amax(-1, keepdim=True)
    inverse = torch.full_like(bound, 127.0) / bound  # as tensors: `127.0 / bound` is rounded twice
    integers = torch.round(parts * inverse.where(bound > 1e-36, torch.tensor(0.0)))
    return integers.flatten(-2), (bound / 127.0).squeeze(-1)


def round_int8(x: Tensor, groups: int) -> Tensor:
    integers, scale = quantized(x, groups)
    return (integers.to(x.dtype).unflatten(-1, (groups, -1)) * scale[..., None].to(x.dtype)).flatten(-2)


def round_bfloat16(x: Tensor, groups: int) -> Tensor:
    return x.bfloat16().to(x.dtype)


def do_not_round(x: Tensor, groups: int) -> Tensor:
    return x


ROUNDINGS: dict[str, Round] = {
    "float32": do_not_round,
    "bfloat16": round_bfloat16,
    "int8": round_int8,
}


def emulate(
    encoder: Any, x: Tensor, mask: Tensor | None, precision: str, dtype: torch.dtype = torch.float64
) -> Tensor:
    """The encoder with the operands and weights of its products rounded; everything else computed in `dtype`.

    Of scores and values too, in the precision in which the build in use multiplies them.
    """
    rounding = ROUNDINGS[precision]
    of_scores = ROUNDINGS["float32" if precision == "float32" else cpu.scores_precision(precision)]

    def product(module: Any, x: Tensor, blocks: int) -> Tensor:
        weight = rounding(module.weight.detach().squeeze(-1).to(dtype), blocks)
        groups = getattr(module, "groups", 1)
        stretches = rounding(x, groups * blocks).unflatten(-1, (groups, -1))
        rows = weight.unflatten(0, (groups, -1))
        return torch.einsum("btgi,goi->btgo", stretches, rows).flatten(-2) + module.bias.detach().to(dtype)

    def normalized(norm: Any, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps
        )

    x = x.to(dtype)
    family = encoder_family(encoder)
    for layer in family.layers_of(encoder):
        parts, cut = family.parts(layer), layer_of(layer, family)
        q, k, v = (
            product(module, x, conv.blocks).unflatten(-1, (parts.heads, -1)).transpose(1, 2)
            for module, conv in ((parts.query, cut.query), (parts.key, cut.key), (parts.value, cut.value))
        )
        q, k, v = (of_scores(each, 1) for each in (q, k, v))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores + mask.to(dtype)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        values = of_scores(weights, 1) @ v / weights.sum(-1, keepdim=True)
        context = values.transpose(1, 2).flatten(2)
        post = product(parts.post_attention, context, cut.post_attention.blocks)
        attended = normalized(parts.post_attention_norm, post + x)
        hidden = product(parts.intermediate, attended, cut.intermediate.blocks)
        hidden = apply_activation(cut.activation, hidden)
        x = normalized(parts.output_norm, product(parts.output, hidden, cut.output.blocks) + attended)
    return x


def assert_emulated(
    actual: Tensor, encoder: Any, x: Tensor, mask: Tensor | None, precision: str, share: float = 0.85
) -> None:
    """`actual` is the encoder with its products in `precision`, sequence by sequence.

    A value that sits at a boundary of rounding falls to the other side now and then, when float32 rounds what
    came before otherwise than float64, and a whole sequence changes by one step of one value. At least a `share`
    of the sequences, less where they have many values, agree to a hundredth of what `precision` costs: another
    scale, scheme or place of rounding shows in every one.

    Where scores and values are in bfloat16, exponentials and GELU are finer than that rounding but not of float32's
    accuracy. Then values in every sequence fall to the other side, so ours may only be no further from the exact
    result than the emulation is, by the tolerance rule.
    """
    exact = emulate(encoder, x, mask, precision)
    unrounded = emulate(encoder, x, mask, "float32")
    cost = (exact - unrounded).square().mean().sqrt()
    assert cost > 1e-4 * exact.abs().max(), (
        "the precision costs nothing here: the test would see no difference"
    )
    if cpu.scores_precision(precision) != "float32":
        ours = (actual.double() - unrounded).flatten(1).square().mean(1).sqrt()
        theirs = (exact - unrounded).flatten(1).square().mean(1).sqrt()
        assert (ours <= 2 * theirs + 0.2 * cost).all(), f"errors {ours.tolist()}, theirs {theirs.tolist()}"
        return
    error = (actual.double() - exact).flatten(1).square().mean(1).sqrt()
    agree = error <= 0.01 * cost
    assert agree.sum() >= share * len(agree), f"errors {error.tolist()}, of the precision {cost:.3g}"
    assert error.max() <= 2 * cost


def share_of(name: str) -> float:
    """The share for a configuration of `engine_helpers.EDGES`: the wide ones have thousands of values a token."""
    return 0.25 if "layer of" in name or "200" in name else 0.85
