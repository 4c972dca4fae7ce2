"""What stands around an encoder beside products, on the native kernels: activations, LayerNorm, pooling of tokens.

With cpu.py and cpu_encoder.py the places that hand addresses to native code, and so make sure of what stands there.
squeezebert-run (csrc/runtime/) computes with the same functions, so that its results have the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import gradients_are_recorded, obstacle


def takes(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the functions below may read these tensors now: float32 on the CPU, and no gradient is recorded."""
    return (
        cpu.native_module_missing() is None
        and all(t is None or (t.dtype is torch.float32 and t.device.type == "cpu") for t in (x, *others))
        and not gradients_are_recorded(x, *others)
        and obstacle(x, *others) is None
    )


def activate(x: Tensor, activation: str) -> Tensor:
    """A key of `cpu.FUSED_ACTIVATIONS` applied to every element, as a new contiguous tensor."""
    y = _copy(x)
    native: Any = cpu._native
    function = cpu.FUSED_ACTIVATIONS[activation]
    native.activate(cpu.instruction_set(), function, y.data_ptr(), y.numel(), torch.get_num_threads())
    return y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis, at least 1 wide, as a new contiguous tensor. weight, bias: [channels]."""
    y, channels = _copy(x), x.shape[-1]
    weight, bias = weight.contiguous(), bias.contiguous()
    native: Any = cpu._native
    norm = (weight.data_ptr(), bias.data_ptr(), eps)
    rows = y.numel() // channels
    native.layer_norm(cpu.instruction_set(), norm, y.data_ptr(), rows, channels, torch.get_num_threads())
    return y


def mean_pool(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of each sequence's rows where the mask isn't 0. x: [batch, tokens, channels]; mask: [batch, tokens]."""
    x, counts = x.contiguous(), (mask != 0).to("cpu", torch.int64).contiguous()
    y = torch.empty((x.shape[0], x.shape[2]), dtype=torch.float32, device="cpu")
    native: Any = cpu._native
    native.mean_pool(x.data_ptr(), counts.data_ptr(), list(x.shape), y.data_ptr(), torch.get_num_threads())
    return y


def to_unit_length(x: Tensor) -> Tensor:
    """Each row over its length, or over 1e-12 where that is less. x: [rows, channels]."""
    y = _copy(x)
    native: Any = cpu._native
    native.to_unit_length(y.data_ptr(), *y.shape)
    return y


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format)
