"""The implementations of the operations, and the choice among them.

Each is a row of BACKENDS, which says all that the rest of the package asks of it. Nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from squeezebert_fast import triton_kernels
from squeezebert_fast.backends import cpu, cpu_ops, triton, triton_ops
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import UnsupportedError, check_among


@dataclass(frozen=True)
class Backend:
    """One implementation of the operations."""

    name: str
    """What users write in `backend="..."`."""
    operations: frozenset[str]
    """Those that it has a kernel for; `embeddings` and `encoder` are the whole parts of a model that infers."""
    refusal: Callable[[Request], str | None]
    """Why it can't serve a request, or None. The text completes "cpu: ..." in `explain`."""
    device_type: str = ""
    """Of the tensors that it is for: `auto` asks it about those, and a graph runs its kernels on those."""
    auto_refusal: Callable[[], str | None] = lambda: None
    """Why `auto` prefers the reference although this backend would serve, or None."""
    kernels: ModuleType | None = None
    """The module with NAME and NAME_backward for each single operation. The reference has none."""
    fused_activations: Container[str | None] = ()
    """What its products apply themselves: transformers' names of activations, and None."""


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "reference",
            frozenset(
                (
                    "grouped_pointwise_conv",
                    "qkv_projection",
                    "attention",
                    "add_layer_norm",
                    "dropout",
                    "grouped_mlp",
                )
            ),
            refusal=lambda request: None,
        ),
        Backend(
            "cpu",
            cpu.OPERATIONS,
            cpu.refusal,
            device_type="cpu",
            auto_refusal=cpu.slower_than_reference,
            kernels=cpu_ops,
            fused_activations=cpu.FUSED_ACTIVATIONS,
        ),
        Backend(
            "triton",
            triton.OPERATIONS,
            triton.refusal,
            device_type="cuda",
            kernels=triton_ops,
            fused_activations=triton_kernels.FUSED_ACTIVATIONS,
        ),
    )
}
NAMES = ("auto", *BACKENDS)


class Choice(NamedTuple):
    """Which backend serves a request, and why not another."""

    backend: str
    reason: str


def check_name(backend: str) -> None:
    """Raise ArgumentError unless `backend` is one of NAMES."""
    check_among("backend", backend, NAMES)


def choose(request: Request, backend: str = "auto", strict: bool = False) -> Choice:
    """The backend that serves `request`.

    `auto` asks the backends of the tensors' device. The reference serves what they refuse, and what a named backend
    refuses, with their reasons. `strict` raises UnsupportedError with those instead, if one of them has a kernel for
    the operation: one without can only ever run on the reference.
    """
    check_name(backend)
    if backend == "reference":
        return Choice("reference", "chosen by name")
    refusals: list[str] = []
    has_kernel = False
    auto = backend == "auto"
    for asked in _for_device(request.device.type) if auto else (BACKENDS[backend],):
        knows = request.operation in asked.operations
        if auto and not knows:
            continue
        has_kernel = has_kernel or knows
        refusal = asked.refusal(request) or (asked.auto_refusal() if auto else None)
        if refusal is None:
            reason = "the first choice here" if auto else "chosen by name"
            return Choice(asked.name, "; ".join(refusals) or reason)
        refusals.append(f"{asked.name}: {refusal}")
    reason = "; ".join(refusals) or f"no kernel for {request.operation} in this version"
    if strict and has_kernel:
        raise UnsupportedError(f"{request.operation}: {reason} (backend {backend!r}, strict)")
    return Choice("reference", reason)


def _for_device(device_type: str) -> list[Backend]:
    """Those for tensors on such a device, or, on one that none is for, the CPU's, whose refusals say so."""
    found = [backend for backend in BACKENDS.values() if backend.device_type == device_type]
    return found or _for_device("cpu")
