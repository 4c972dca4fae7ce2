"""Dropout by itself, and the seed of every kernel's dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Gradients, request_for
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.differentiable import Differentiable, needed


def draw_seed(dropout_p: float, device: torch.device) -> Tensor | None:
    """An int64 [] from PyTorch's default generator of `device`, or None, and nothing drawn, where nothing is dropped.

    A kernel's mask is a function of the seed, so `torch.manual_seed` governs it, and gradient checkpointing, which
    puts the generator's state back, replays it. A tensor, since under torch.compile each run of the graph must draw.
    """
    if dropout_p == 0.0:
        return None
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)


def dropout(x: Tensor, dropout_p: float = 0.5, *, backend: str = "auto", strict: bool = False) -> Tensor:
    """Zeros in place of some elements of x, the others multiplied by 1 / (1 - dropout_p).

    PyTorch's own takes one thread on a CPU, and keeps a mask. A GPU's is one kernel, and stays in use there.

    Args:
        x: [..., channels].
        dropout_p: probability in [0, 1] of dropping an element. Seeded by PyTorch's default generator of the device.
        backend, strict: as in `grouped_pointwise_conv`.

    Returns:
        x's shape and dtype.

    Raises:
        ArgumentError: x is no tensor of a floating dtype, has no axis, or dropout_p is no probability.

    >>> kept = dropout(torch.ones(2, 1000), 0.5)
    >>> kept.unique()
    tensor([0., 2.])

    Source: `torch.nn.functional.dropout`.
    """
    if not isinstance(x, Tensor):
        raise ArgumentError(f"x is a {type(x).__name__}, expected a tensor")
    if x.dim() < 1:
        raise ArgumentError("x has shape [], expected [..., channels]")
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"x is {x.dtype}, expected a floating dtype")
    if not 0.0 <= dropout_p <= 1.0:
        raise ArgumentError(f"dropout_p is {dropout_p}, expected 0 <= dropout_p <= 1")
    chosen = backends.choose(request_for("dropout", x), backend, strict).backend
    if chosen != "reference":
        return on_kernels(chosen, x, dropout_p, draw_seed(dropout_p, x.device))
    return reference.dropout(x, dropout_p)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(grad: Tensor, *rest: Any) -> list[Tensor]:
    return needed(rest[-1], grad, [(grad.shape, grad.dtype)])


def _kept(inputs: tuple[Any, ...], y: Tensor, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    *_, seed = inputs
    return (seed,)


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor) -> Gradients:
    return kernel(grad, *ctx.options, *ctx.saved_tensors, ctx.needs_input_grad[:1])


def _definition(ctx: Any, grad: Tensor) -> Gradients:
    kept = on_kernels.op(torch.ones(grad.shape, device=grad.device), *ctx.options, *ctx.saved_tensors)
    return (grad * kept.to(grad.dtype),)


on_kernels = Differentiable(
    "dropout",
    fake=_fake,
    backward_fake=_backward_fake,
    kept=_kept,
    gradients=_gradients,
    definition=_definition,
)
