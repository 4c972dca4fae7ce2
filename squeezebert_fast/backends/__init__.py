"""The implementations of the operations, and the choice among them.

A backend is a module with a NAME, the set OPERATIONS of those it has a kernel for, and `refusal(request)`:
why it can't serve a request, or None if it can. Nothing here knows of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from squeezebert_fast.backends import cpu, cuda, reference, triton
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError, UnsupportedError

BACKENDS: dict[str, ModuleType] = {module.NAME: module for module in (reference, cpu, triton, cuda)}
AUTO_ORDER = ("cuda", "triton", "cpu")
"""Tried in this order for `auto`; reference serves what they refuse."""
GPU_ONLY = ("cuda", "triton")
"""Not tried by `auto` for tensors on another device than a CUDA GPU, and the others not for those on one."""

NAMES = ("auto", *BACKENDS)


@dataclass(frozen=True)
class Choice:
    """Which backend serves a request, and why not another."""

    backend: str
    reason: str


def check_name(backend: str) -> None:
    """Raise ArgumentError unless `backend` is one of NAMES."""
    if backend not in NAMES:
        raise ArgumentError(f"backend is {backend!r}; it can be one of {', '.join(NAMES)}")


def choose(request: Request, backend: str = "auto", strict: bool = False) -> Choice:
    """The backend that serves `request`.

    A named backend that refuses is replaced by the reference, with its reason. `strict` raises
    UnsupportedError with that reason instead, if the backend has a kernel for the operation: an operation
    without one can only ever run on the reference.
    """
    check_name(backend)
    if backend == "reference":
        return Choice("reference", "chosen by name")
    refusals: list[str] = []
    has_kernel = False
    for name in _auto_order(request) if backend == "auto" else (backend,):
        module = BACKENDS[name]
        if backend == "auto" and request.operation not in module.OPERATIONS:
            continue
        has_kernel = has_kernel or request.operation in module.OPERATIONS
        refusal = module.refusal(request)
        if refusal is None and backend == "auto" and module is cpu:
            refusal = cpu.slower_than_reference()
        if refusal is None:
            return Choice(
                name,
                "; ".join(refusals) or ("the first choice here" if backend == "auto" else "chosen by name"),
            )
        refusals.append(f"{name}: {refusal}")
    reason = "; ".join(refusals) or f"no kernel for {request.operation} in this version"
    if strict and has_kernel:
        raise UnsupportedError(f"{request.operation}: {reason} (backend {backend!r}, strict)")
    return Choice("reference", reason)


def _auto_order(request: Request) -> list[str]:
    on_gpu = request.device.type == "cuda"
    return [name for name in AUTO_ORDER if (name in GPU_ONLY) == on_gpu]
