"""The native kernels of csrc/, for x86-64 and AArch64.

This module is the one place that hands addresses to native code, and so the one that makes sure of what
stands there: float32, on the CPU, rows contiguous, alive during the call.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError, UnsupportedError

try:
    from squeezebert_fast import _native

    _import_error: str | None = None
except ImportError as error:  # installed without a compiler
    _native = None  # type: ignore[assignment]
    _import_error = str(error)

NAME = "cpu"
OPERATIONS = frozenset({"grouped_pointwise_conv"})

ISA_VARIABLE = "SQUEEZEBERT_FAST_ISA"
"""Environment variable that names the kernel build to use in place of the best one."""

FUSED_ACTIVATIONS = (
    {}
    if _native is None
    else {
        None: _native.Activation.none,
        "gelu": _native.Activation.gelu,
        "gelu_python": _native.Activation.gelu,
        "gelu_accurate": _native.Activation.gelu_tanh,
        "gelu_fast": _native.Activation.gelu_tanh,
        "gelu_new": _native.Activation.gelu_tanh,
        "gelu_python_tanh": _native.Activation.gelu_tanh,
        "gelu_pytorch_tanh": _native.Activation.gelu_tanh,
        "relu": _native.Activation.relu,
        "silu": _native.Activation.silu,
        "swish": _native.Activation.silu,
    }
)
"""The activations that a kernel applies itself, by transformers' names, some of which share a formula."""

_chosen: str | None = None


def native_module_missing() -> str | None:
    """Why the native module can't be used, or None."""
    if _native is None:
        return f"the native module is not built ({_import_error}); reinstall with a C++ compiler"
    return None


def instruction_sets() -> list[str]:
    """The kernel builds that are usable on this machine, best first; empty without the native module."""
    return [] if _native is None else _native.instruction_sets()


def instruction_set() -> str:
    """The kernel build in use: the best one, or the one that SQUEEZEBERT_FAST_ISA names.

    Raises UnsupportedError without the native module, ArgumentError when the variable names a build that is
    not usable.
    """
    global _chosen
    if _chosen is None:
        if missing := native_module_missing():
            raise UnsupportedError(missing)
        usable = instruction_sets()
        wanted = os.environ.get(ISA_VARIABLE) or usable[0]
        if wanted not in usable:
            raise ArgumentError(f"{ISA_VARIABLE} is {wanted!r}; usable here: {', '.join(usable)}")
        _chosen = wanted
    return _chosen


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Within the block, use the kernel build `name`. Not for use from several threads at once."""
    global _chosen
    if name not in instruction_sets():
        raise ArgumentError(
            f"instruction set {name!r} is not usable; usable here: {', '.join(instruction_sets())}"
        )
    before = _chosen
    _chosen = name
    try:
        yield
    finally:
        _chosen = before


def refusal(request: Request) -> str | None:
    """Why this backend can't serve `request`, or None."""
    if request.operation not in OPERATIONS:
        return f"no native kernel for {request.operation} in this version"
    if missing := native_module_missing():
        return missing
    if request.device.type != "cpu":
        return f"the tensors are on {request.device}, not on the CPU"
    if request.dtype is not torch.float32:
        return f"the dtype is {request.dtype}, the kernel takes torch.float32"
    return request.obstacle


def slower_than_reference() -> str | None:
    """Why `auto` prefers the reference although this backend would serve, or None."""
    if instruction_set() == "scalar" and ISA_VARIABLE not in os.environ:
        return "only the scalar build fits this CPU, and PyTorch's own kernels are faster than that"
    return None


@dataclass
class _Entry:
    weight: weakref.ref[Tensor]
    version: int
    address: int
    groups: int
    packed: Any


_packed: dict[int, _Entry] = {}
"""Packed weights by the identity of the weight tensor."""


def packed_weight(weight: Tensor, groups: int) -> Any:
    """`weight`, [out_channels, in_channels / groups, 1], in the kernel's layout, packed once per version.

    A weight is packed again when its version, its address, the groups or the instruction set changed, or a
    sample of its elements did: writes through `.data` or another tensor's view leave the version as it is. Of
    those, a write that misses all sampled elements goes unseen; `forget`, `patch` and `unpatch` drop what is
    packed.
    """
    if weight.is_inference() or not weight.is_contiguous():
        # Without a version, or without elements at the sample's fixed places, nothing tells that it is still
        # the same.
        return _pack(weight.contiguous(), groups)
    key, version, address = id(weight), weight._version, weight.data_ptr()
    entry = _packed.get(key)
    if (
        entry is not None
        and entry.weight() is weight
        and entry.version == version
        and entry.address == address
        and entry.groups == groups
        and entry.packed.instruction_set == instruction_set()
        and entry.packed.matches(address)
    ):
        return entry.packed
    packed = _pack(weight, groups)
    _packed[key] = _Entry(
        weakref.ref(weight, lambda _: _packed.pop(key, None)), version, address, groups, packed
    )
    return packed


def _pack(weight: Tensor, groups: int) -> Any:
    out_channels, in_per_group = weight.shape[:2]
    source = weight.detach()  # keeps the memory, should another thread give `weight` other data meanwhile
    return _native.PackedGroupedPointwiseConv(
        instruction_set(),
        source.data_ptr(),
        groups,
        out_channels // groups,
        in_per_group,
        torch.get_num_threads(),
    )


def forget(weight: Tensor) -> None:
    """Free what was packed for `weight`."""
    _packed.pop(id(weight), None)


def packed_bytes() -> int:
    """Bytes that packed weights hold now."""
    return sum(entry.packed.bytes for entry in list(_packed.values()))


def grouped_pointwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None
) -> Tensor:
    """The native forward. Arguments as in `squeezebert_fast.ops.grouped_pointwise_conv`, checked and float32.

    `activation` is a key of FUSED_ACTIVATIONS. Returns a new contiguous tensor that is not part of any graph.
    """
    packed = packed_weight(weight, groups)
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) != 1 and rows.shape[1] != 1:
        rows = rows.contiguous()
    # the device is said, since `torch.set_default_device` would put it elsewhere
    y = torch.empty((*x.shape[:-1], packed.out_channels), dtype=torch.float32, device="cpu")
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()
    packed.run(
        rows.data_ptr(),
        rows.stride(0),
        rows.shape[0],
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        packed.out_channels,
        FUSED_ACTIVATIONS[activation],
        torch.get_num_threads(),
    )
    return y
