"""What the tests of gradients share: the rule for a result and all of its gradients, and the masks of dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu_ops
from squeezebert_fast.ops.dropout import draw_seed
from tests.helpers import assert_within_rule

Operation = Callable[..., Tensor]


class Random:
    """Seeded normal leaves that want a gradient."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self._generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self._generator) * scale
        return values.to(self.dtype).requires_grad_()


def alike(random: Callable[..., Tensor], *shape: int, fraction: float = 0.1) -> Tensor:
    """Tokens of late layers, [..., tokens, channels]: what all of a sequence share, and a fraction of their own."""
    common, own = random(*shape[:-2], 1, shape[-1]).detach(), random(*shape).detach()
    return (common.double() + fraction * own.double()).to(own.dtype).requires_grad_()


def result_and_gradients(
    operation: Operation, tensors: Sequence[Tensor | None], autocast: bool = False
) -> list[Tensor]:
    """The result, and the gradients of a weighted sum of it with respect to those tensors that want one."""
    context: Any = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with context:
        y = operation(*tensors)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, wanted, weights)]


def doubled(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Leaves in float64 with the same values."""
    return [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


def assert_gradients_within_rule(
    operation: Operation, reference: Operation, tensors: Sequence[Tensor | None], autocast: bool = False
) -> None:
    """The tolerance rule for the result of `operation(*tensors)` and each of its gradients.

    In bfloat16 errors are compared as root mean squares: the largest of a few roundings is luck.
    """
    actual = result_and_gradients(operation, tensors, autocast)
    same = result_and_gradients(reference, tensors, autocast)
    exact = result_and_gradients(reference, doubled(tensors))
    coarse = autocast or any(t is not None and t.dtype is torch.bfloat16 for t in tensors)
    names = ["result", *(f"gradient {number}" for number in range(len(actual) - 1))]
    for name, a, s, e in zip(names, actual, same, exact, strict=True):
        assert_within_rule(a, s, e, name, whole_model=coarse)


def norm_kept(seed: Tensor | None, shape: Sequence[int], p: float) -> Tensor:
    """What the dropout of `add_layer_norm` multiplies x by."""
    channels = torch.ones(shape[-1])
    _, total, _, _ = cpu_ops.add_layer_norm(
        torch.ones(*shape), torch.zeros(*shape), channels, channels, 1e-12, p, seed
    )
    return total


def dropout_kept(seed: Tensor | None, shape: Sequence[int], p: float) -> Tensor:
    """What `dropout` multiplies x by."""
    return cpu_ops.dropout(torch.ones(*shape), p, seed)


def attention_kept(seed: Tensor | None, batch: int, heads: int, queries: int, keys: int, p: float) -> Tensor:
    """What the dropout of `attention` multiplies probabilities by: equal ones, of values that are a key's number."""
    q = torch.zeros(batch, queries, heads * keys)
    k = torch.zeros(batch, keys, heads * keys)
    v = torch.eye(keys).repeat(batch, 1, heads)
    result, _ = cpu_ops.attention(q, k, v, None, heads, p, seed)
    return result.unflatten(-1, (heads, keys)).transpose(1, 2) * keys


def seed_after(number: int, p: float = 0.5) -> Tensor | None:
    """The seed that the first dropout after `torch.manual_seed(number)` draws. Leaves PyTorch in that state."""
    torch.manual_seed(number)
    seed = draw_seed(p, torch.device("cpu"))
    torch.manual_seed(number)
    return seed
