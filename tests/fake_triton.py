"""The Triton backend as if a GPU were there: CPU tensors, and PyTorch in the place of every kernel of the fused passes,
the CPU's kernels in that of the operations.

What is around the kernels (which of them run, on what, and when not) is tested on every machine this way, at PyTorch's
speed; the kernels themselves are tested in tests/triton.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from squeezebert_fast.backends import BACKENDS, cpu_ops, triton
from squeezebert_fast.backends.masks import zero_where_blind
from squeezebert_fast.ops import reference


def _self_attention(
    x: Tensor, weights: Any, biases: Any, groups: Any, heads: int, mask: Any, sequences: Any, attends: Any
) -> Tensor:
    assert x.stride(-1) == 1
    q, k, v = (
        reference.grouped_pointwise_conv(x, w, b, g) for w, b, g in zip(weights, biases, groups, strict=True)
    )
    return _attention(q, k, v, mask, heads, sequences, attends)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any, heads: int, sequences: Any, attends: Any
) -> Tensor:
    if sequences is None:
        context = reference.attention(q, k, v, mask, heads)
        return context if attends is None else zero_where_blind(context, attends, heads)
    assert mask is None
    assert attends is None
    offsets, longest = sequences
    assert offsets.dtype is torch.int32
    assert offsets.shape[0] > 1
    lengths = offsets.diff().tolist()
    assert max(lengths) == longest
    assert sum(lengths) == q.shape[0]
    parts = zip(*(t.split(lengths) for t in (q, k, v)), strict=True)
    return torch.cat([reference.attention(*(t[None] for t in part), None, heads)[0] for part in parts])


def _conv_add_layer_norm(
    x: Tensor, weight: Any, bias: Any, groups: int, residual: Tensor, gamma: Any, beta: Any, eps: float
) -> Tensor:
    product = reference.grouped_pointwise_conv(x, weight, bias, groups)
    return reference.add_layer_norm(product, residual, gamma, beta, eps)


def _feed_forward(
    x: Tensor,
    weight_in: Any,
    bias_in: Any,
    weight_out: Any,
    bias_out: Any,
    groups: int,
    activation: str | None,
    gamma: Any,
    beta: Any,
    eps: float,
) -> Tensor:
    product = reference.grouped_mlp(x, weight_in, bias_in, weight_out, bias_out, groups, activation)
    return reference.add_layer_norm(product, x, gamma, beta, eps)


def _embeddings(
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    ids: Any,
    at: Any,
    kinds: Any,
    gamma: Any,
    beta: Any,
    eps: float,
) -> Tensor:
    total = words[ids] + positions[at] + types[kinds]
    return torch.nn.functional.layer_norm(total, total.shape[-1:], gamma, beta, eps)


class _Int8Conv(NamedTuple):
    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    groups: int

    def __call__(self, x: Tensor, activation: str | None = None) -> Tensor:
        """With the values of int8 weights, and x as it is."""
        parts = self.weight.flatten(1).double().unflatten(1, (self.scale.shape[1], -1))
        weight = (parts * self.scale[..., None]).flatten(1)[..., None].to(x.dtype)
        return reference.grouped_pointwise_conv(x, weight, self.bias, self.groups, activation)


def _int8_self_attention(
    x: Tensor, projections: Any, heads: int, mask: Any, sequences: Any, attends: Any
) -> Tensor:
    assert len({by.groups * by.scale.shape[1] for by in projections}) == 1
    q, k, v = (by(x) for by in projections)
    return _attention(q, k, v, mask, heads, sequences, attends)


def _int8_conv_norm(x: Tensor, by: _Int8Conv, residual: Tensor, gamma: Any, beta: Any, eps: float) -> Tensor:
    return reference.add_layer_norm(by(x), residual, gamma, beta, eps)


def _int8_feed_forward(
    x: Tensor, into: _Int8Conv, out: _Int8Conv, activation: str | None, gamma: Any, beta: Any, eps: float
) -> Tensor:
    return reference.add_layer_norm(out(into(x, activation)), x, gamma, beta, eps)


KERNELS: dict[str, dict[str, Any]] = {
    "grouped_pointwise_conv": {"grouped_pointwise_conv": reference.grouped_pointwise_conv},
    "self_attention": {"self_attention": _self_attention},
    "post_attention": {"conv_add_layer_norm": _conv_add_layer_norm},
    "feed_forward": {"feed_forward": _feed_forward},
    "embeddings": {"embeddings": _embeddings},
    "int8_passes": {
        "Int8Conv": _Int8Conv,
        "self_attention": _int8_self_attention,
        "conv_add_layer_norm": _int8_conv_norm,
        "feed_forward": _int8_feed_forward,
    },
}
"""By file of triton_kernels/, its host functions that the engine calls."""
OPERATIONS = ("grouped_pointwise_conv", "qkv_projection", "grouped_mlp", "attention", "add_layer_norm")


@contextmanager
def fake_triton() -> Iterator[list[str]]:
    """Within the block `backend="triton"` serves CPU tensors; what was called is listed by name."""
    calls: list[str] = []

    def recorded(name: str, run: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(name)
            with torch.no_grad():
                return run(*args, **kwargs)

        return call

    def kernels(file: str) -> Any:
        names = KERNELS[file].items()
        return SimpleNamespace(
            **{name: run if isinstance(run, type) else recorded(name, run) for name, run in names}
        )

    both = [name for operation in OPERATIONS for name in (operation, operation + "_backward")]
    operations = {name: recorded(name, getattr(cpu_ops, name)) for name in both}
    with pytest.MonkeyPatch.context() as patch:
        kernels_of_operations: Any = SimpleNamespace(**operations)
        row = dataclasses.replace(BACKENDS["triton"], kernels=kernels_of_operations)
        patch.setitem(BACKENDS, "triton", row)
        patch.setattr(triton, "unavailable", lambda device: None)
        patch.setattr(triton, "kernels", kernels)
        yield calls
