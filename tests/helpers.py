"""What every test shares: the tolerance rule, and leaving a group of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FLOOR_ULPS = 4


def to_double(value: Any) -> Any:
    """`value` with its floating tensors (in containers and modules' arguments too) as float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(to_double(v) for v in value)
    if isinstance(value, dict):
        return {k: to_double(v) for k, v in value.items()}
    return value


def assert_within_rule(
    actual: Tensor, same_precision: Tensor, exact: Tensor, what: str = "result", whole_model: bool = False
) -> None:
    """The tolerance rule: at most twice the error of PyTorch's own ops in the same precision, plus a few ulp.

    actual: what is tested; same_precision: PyTorch's own ops in the tested precision; exact: the same in float64.
    Errors are the largest absolute difference from `exact`, or its root mean square for a `whole_model`, where a
    LayerNorm may blow up the rounding of one token, and the largest error is luck. An ulp is that of the tested
    precision at the largest magnitude in `exact`. Infinities and NaNs must be where `exact` has them. PyTorch's own
    ops can't say: on CPUs with AMX their bfloat16 products let a NaN of one row into the row before where the depth is
    not a multiple of 32; such elements don't count as their error. What is finite in `exact` and beyond the tested
    precision, such as the lowest number with a score added, must be infinite or the largest number.
    """
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert actual.dtype == same_precision.dtype, (
        f"{what}: dtype {actual.dtype}, expected {same_precision.dtype}"
    )
    if actual.numel() == 0:
        return
    limits = torch.finfo(actual.dtype)
    largest = limits.max * (1 - FLOOR_ULPS * limits.eps)
    beyond = exact.isfinite() & (exact.abs() >= largest)
    assert (actual.double() * exact.sign() >= largest)[beyond].all(), f"{what}: smaller than the exact result"
    inside = exact.isfinite() & ~beyond
    assert torch.equal(actual.isfinite() | beyond, inside | beyond), (
        f"{what}: not finite where the exact result is, or reversed"
    )
    exact = torch.where(inside, exact, 0.0)

    def error(tensor: Tensor) -> float:
        difference = torch.where(inside & tensor.isfinite(), tensor.double() - exact, 0.0)
        return float(difference.square().mean().sqrt() if whole_model else difference.abs().max())

    ours, theirs = error(actual), error(same_precision)
    floor = FLOOR_ULPS * limits.eps * exact.abs().max().item()
    assert ours <= 2 * theirs + floor, (
        f"{what}: error {ours:.3g}, PyTorch's own {theirs:.3g}, floor {floor:.3g}"
    )


def leave_process_group() -> None:
    """Destroy torch.distributed's group of processes after DDP's backward.

    What gloo's threads did in a backward holds a Python object (PyTorch 2.13), which they let go of when they are
    done, for which they need the GIL: whoever destroys the group holds it and waits for them. A moment's sleep lets
    them finish.
    """
    time.sleep(0.2)
    torch.distributed.destroy_process_group()


def check(fn: Callable[..., Tensor], reference: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Apply the tolerance rule to `fn(*args)`, with `reference` in the same precision and in float64."""
    actual = fn(*args, **kwargs)
    exact = reference(*to_double(args), **to_double(kwargs))
    assert_within_rule(actual, reference(*args, **kwargs), exact, getattr(fn, "__name__", "result"))
    return actual
