"""What a backend is asked whether it can serve, and what its kernels give."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import _symbolic_trace
from torch.utils._device import DeviceContext

Gradients = tuple[Tensor | None, ...]
"""What the kernel of a backward gives: None for those that aren't needed."""


class Request(NamedTuple):
    """One call of an operation, as far as a backend's answer can depend on it."""

    operation: str
    device: torch.device
    dtype: torch.dtype
    obstacle: str | None = None
    """Why no kernel may take this call, whatever the backend (see `obstacle`)."""
    needs_grad: bool = False
    """Whether the result must be differentiable (see `gradients_are_recorded`)."""
    autocast: torch.dtype | None = None
    """What autocast rounds the operands of products to, or None (see `autocast_dtype`)."""
    traced: bool = False
    """Whether torch.compile or torch.export is tracing, so that a kernel must be a `torch.library` operation."""
    sizes: Mapping[str, int] = MappingProxyType({})
    """What a kernel's limits are about, by name, such as the channels of a head; empty where it isn't known yet."""


def request_for(
    operation: str,
    *tensors: Tensor | None,
    sizes: Mapping[str, int] | None = None,
    obstacle: str | None = None,
) -> Request:
    """The request that a call of a single operation with these tensors, the first of them its input, is now.

    obstacle: one that the operation itself found.
    """
    x = tensors[0]
    assert x is not None
    traced, autocast = torch.compiler.is_compiling(), autocast_dtype(x.device)
    if obstacle is None:
        obstacle = graph_obstacle() if traced else context_obstacle() or tensor_obstacle(*tensors)
    if obstacle is None and autocast is not None:
        obstacle = next(
            (
                f"autocast doesn't round {t.dtype}"
                for t in tensors
                if t is not None and t.dtype not in _ROUNDED[x.device.type]
            ),
            None,
        )
    needs_grad = gradients_are_recorded(*tensors)
    return Request(operation, x.device, x.dtype, obstacle, needs_grad, autocast, traced, sizes or {})


_ROUNDED = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}
"""What autocast on a device rounds."""


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast rounds the operands of products on `device` to now, or None where it is off."""
    kind = device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def autocast_to(dtype: torch.dtype | None, tensor: Tensor) -> Tensor:
    """`tensor` as autocast to `dtype`, None where it is off, hands it to a product; differentiable."""
    return tensor if dtype is None or tensor.dtype is torch.float64 else tensor.to(dtype)


def gradients_are_recorded(*tensors: Tensor | None) -> bool:
    """Whether what is computed from these tensors now must be differentiable."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def obstacle(*tensors: Tensor | None) -> str | None:
    """Why a kernel that PyTorch can't look into must not take these tensors now, or None."""
    return context_obstacle() or tensor_obstacle(*tensors)


COMPILING = "torch.compile or torch.export is tracing"


def tracing() -> str | None:
    """Who writes down PyTorch's operations instead of running them, or None.

    A module asks this first: reading as much as a shape leaves operations behind, and whoever traces a second time to
    compare would find others.
    """
    if torch.compiler.is_compiling():
        return COMPILING
    if torch._C._is_tracing():
        return "torch.jit is tracing"
    if _symbolic_trace._is_fx_tracing_flag:  # its function warns at each call
        return "torch.fx is tracing"
    return None


def graph_obstacle() -> str | None:
    """Why a graph that torch.compile or torch.export makes now must not have this package's operations, or None."""
    onnx = sys.modules.get("torch.onnx")  # imported by whoever exports
    if onnx is not None and onnx.is_in_onnx_export():
        return "torch.onnx is exporting, and knows PyTorch's operations alone"
    return _transformed()


def context_obstacle() -> str | None:
    """Why no kernel may run in the present context, or None.

    Tracing, compilation, modes and function transforms all work by seeing the PyTorch operations of a call; a
    native kernel has none, so it would be left out of the graph.
    """
    if reason := tracing():
        return reason
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a torch dispatch mode is active"
    for index in range(torch._C._len_torch_function_stack()):
        # `torch.set_default_device` is such a mode too, and has no say over tensors that exist
        if type(torch._C._get_function_stack_at(index)) is not DeviceContext:
            return "a torch function mode is active"
    if reason := _transformed():
        return reason
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    return None


def _transformed() -> str | None:
    active = torch._C._are_functorch_transforms_active()
    return "a torch.func transform is active" if active else None


def tensor_obstacle(*tensors: Tensor | None) -> str | None:
    """Why no kernel may read these tensors' memory as it stands, or None."""
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.layout is not torch.strided or tensor.is_neg():
            return "a tensor is sparse or lazily negated"
        if not torch._C._has_storage(tensor) or (tensor.data_ptr() == 0 and tensor.numel() > 0):
            return "a tensor has no memory of its own (meta, lazily zero, or freed)"
    return None
