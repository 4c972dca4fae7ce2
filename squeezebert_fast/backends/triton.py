"""Triton kernels, for NVIDIA GPUs. See triton_kernels/.

This module is the one place that says whether those kernels can run here, and that hands them tensors. It imports
triton, and asks the GPU, when a CUDA tensor first needs an answer: a process that has none never pays for it, and no
failure of either is more than a reason in `explain` and `doctor`.

Without a GPU the kernels run in Triton's interpreter, on CPU tensors, where `TRITON_INTERPRET=1` is set before they are
imported. That is for tests: it is thousands of times slower than PyTorch, so it serves those who ask for
`backend="triton"` by name, never `auto`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends import assembler
from squeezebert_fast.backends.request import Request
from squeezebert_fast.triton_kernels import MAX_CHANNELS, MAX_HEAD_SIZE

OPERATIONS = frozenset(
    {
        "grouped_pointwise_conv",
        "qkv_projection",
        "attention",
        "add_layer_norm",
        "grouped_mlp",
        "embeddings",
        "encoder",
    }
)
INFERENCE_ONLY = ("embeddings", "encoder")
"""The others have a backward, are `torch.library` operations, and follow autocast."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST_TRITON = (3, 6)
OLDEST_CAPABILITY = (8, 0)

INTERPRET_VARIABLE = "TRITON_INTERPRET"


def refusal(request: Request) -> str | None:
    """Why this backend can't serve `request`, or None."""
    if request.operation not in OPERATIONS:
        return f"no Triton kernel for {request.operation} in this version"
    if reason := unavailable(request.device):
        return reason
    if request.dtype not in DTYPES:
        return f"the dtype is {request.dtype}, the kernels take {', '.join(map(str, DTYPES))}"
    if request.operation in INFERENCE_ONLY:
        if request.needs_grad:
            return "gradients are recorded, which the layers in one call don't do"
        if request.traced:
            return "torch.compile or torch.export is tracing"
        if request.autocast is not None:
            return "autocast is active"
    elif request.traced and interpreting():
        return "torch.compile or torch.export is tracing, and Triton's interpreter can't be in a graph"
    elif request.autocast not in (None, *DTYPES):
        return f"autocast to {request.autocast} is active, the kernels take {', '.join(map(str, DTYPES))}"
    if request.sizes and (reason := limit(request.operation, **request.sizes)):
        return reason
    return request.obstacle


def limit(operation: str, **sizes: int) -> str | None:
    """Why the kernel of `operation` doesn't take such sizes, named as in `Request.sizes`, or None."""
    if operation == "attention":
        size, most, what = sizes["channels"] // sizes["num_heads"], MAX_HEAD_SIZE, "heads"
    elif operation in ("add_layer_norm", "embeddings"):
        size, most, what = sizes["channels"], MAX_CHANNELS, "rows"
    else:
        return None
    return f"{what} of {size} channels, the kernel takes at most {most}" if size > most else None


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors, in this process."""
    return os.environ.get(INTERPRET_VARIABLE, "").lower() in ("1", "true", "on", "yes", "y")


def unavailable(device: torch.device) -> str | None:
    """Why no kernel can run on `device`, or None. The first answer for a GPU compiles and runs a tiny kernel there."""
    if interpreting():
        if device.type != "cpu":
            return f"{INTERPRET_VARIABLE} is set, so kernels run on the CPU, and the tensors are on {device}"
        return _triton_refusal()
    if device.type != "cuda":
        return f"the tensors are on {device}, not on a CUDA GPU"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    if reason := _triton_refusal():
        return reason
    return _device_refusal(torch.cuda.current_device() if device.index is None else device.index)


# What torch.compiler.assume_constant_result does, without importing torch._dynamo, which takes a second.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _triton_refusal() -> str | None:
    """Why the installed triton is of no use, or None."""
    try:
        installed = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "triton is not installed"
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"triton {installed} is installed, the kernels need {oldest} or later"
    return None


_device_refusals: dict[int, str | None] = {}


def _device_refusal(index: int) -> str | None:
    """Why kernels can't run on this GPU, or None. Found out once for each."""
    if index not in _device_refusals:
        if torch.version.hip is not None:
            return "this torch is built for ROCm, where the kernels are untested"
        capability = torch.cuda.get_device_capability(index)
        if capability < OLDEST_CAPABILITY:
            has, needs = (".".join(map(str, numbers)) for numbers in (capability, OLDEST_CAPABILITY))
            return f"cuda:{index} has compute capability {has}, the kernels need {needs}"
        if torch.cuda.is_current_stream_capturing():  # the probe waits for the GPU, which a capture forbids
            return "a CUDA graph is being captured before the kernels have run once"
        _device_refusals[index] = assembler.refusal(capability) or _probe(torch.device("cuda", index))
    return _device_refusals[index]


def _probe(device: torch.device) -> str | None:
    try:
        with torch.inference_mode(), torch.cuda.device(device):
            wrong = kernels("probe").run(device)
    except Exception as error:  # a missing C compiler, a driver that is too old, a broken cache folder, ...
        first_line = str(error).strip().partition("\n")[0]
        wrong = f"{type(error).__name__}: {first_line}"
    return wrong and f"the probe kernel failed on {device}: {wrong}"


@functools.cache
def kernels(name: str) -> Any:
    """The module triton_kernels/NAME.py, which imports triton: only for a device that `unavailable` has passed."""
    return importlib.import_module(f"squeezebert_fast.triton_kernels.{name}")


def shared_memory_rows(index: int) -> list[tuple[str, str]]:
    """For `doctor`: what a torch that doesn't know a GPU's shared memory costs there."""
    if hasattr(torch.cuda.get_device_properties(index), "shared_memory_per_block_optin"):
        return []
    unknown = (
        "unknown to this torch: 48 KB are assumed, so tiles are small and the feed-forward block isn't fused"
    )
    return [(f"shared memory of cuda:{index}", unknown)]


def dense(tensor: Tensor) -> Tensor:
    """With the last axis contiguous, as kernels take rows."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


def whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def embeddings(tables: Sequence[Tensor], ids: Sequence[Tensor], norm: tuple[Tensor, Tensor, float]) -> Tensor:
    """LayerNorm over the sum of the rows of three tables.

    tables: words, positions, token types, each [rows, channels]. ids: int64 or int32 [batch, tokens] for each table.
    norm: weight and bias [channels], and eps. Returns [batch, tokens, channels]. A GPU reports no id that is out of
    range without waiting: such a token's row is NaN.
    """
    with torch.no_grad():
        words, positions, types = (table.contiguous() for table in tables)
        weight, bias, eps = norm
        return kernels("embeddings").embeddings(
            words, positions, types, *ids, weight.contiguous(), bias.contiguous(), eps
        )
