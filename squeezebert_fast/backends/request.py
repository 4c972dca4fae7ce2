"""What a backend is asked whether it can serve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One call of an operation, as far as a backend's answer can depend on it."""

    operation: str
    device: torch.device
    dtype: torch.dtype
    obstacle: str | None = None
    """Why no kernel may take this call, whatever the backend (see `obstacle`)."""


def obstacle(*tensors: Tensor | None) -> str | None:
    """Why a kernel that PyTorch can't look into must not take these tensors, or None.

    Tracing, compilation, dispatch modes, function transforms, tensor subclasses and autocast all work by seeing the
    PyTorch operations of a call; a native kernel has none, so it would be left out of the graph, or be handed a dtype
    that it was not asked for.
    """
    if torch.compiler.is_compiling():
        return "torch.compile or torch.export is tracing"
    if torch.jit.is_tracing():
        return "torch.jit is tracing"
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a torch dispatch mode is active"
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform is active"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.layout is not torch.strided or tensor.is_neg():
            return "a tensor is sparse or lazily negated"
        if torch.is_autocast_enabled(tensor.device.type):
            return "autocast is active"
    return None
