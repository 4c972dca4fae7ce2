"""The device that a command computes on."""

from __future__ import annotations

import re

import torch

from squeezebert_fast.errors import ArgumentError, one_of
from squeezebert_fast.training.processes import Processes

CPU = torch.device("cpu")
NAME = re.compile(r"cpu|auto|cuda(?::(\d+))?")


def choose(name: str) -> torch.device:
    """The device of a name, made the current one if it is a GPU.

    name: cpu; cuda:N; cuda, which is the process's own GPU under torchrun (LOCAL_RANK) and otherwise the first; or
    auto, which is cuda where torch finds a GPU and else cpu.
    Raises ArgumentError for another name, a GPU that isn't there, and one GPU for several processes.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ArgumentError(f"device is {name!r}, expected {one_of(['cpu', 'cuda', 'cuda:N', 'auto'])}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise ArgumentError(f"device is {name!r}, but torch finds no CUDA GPU; expected one of cpu, auto")
    processes, there = Processes.of_environment(), torch.cuda.device_count()
    if match[1] is not None and processes.world > 1:
        raise ArgumentError(
            f"device is {name!r} in each of {processes.world} processes, expected cuda, which gives each its own GPU"
        )
    index = processes.local_rank if match[1] is None else int(match[1])
    if index >= there:
        whose = (
            f"process {index} of this machine needs" if match[1] is None else f"device is {name!r}, which is"
        )
        raise ArgumentError(f"{whose} GPU {index}, counted from 0, but torch finds {there}")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)  # Triton and NCCL go by the current one
    return device


def describe(device: torch.device) -> str:
    """Its name for people, such as `cuda:0 (NVIDIA H100 80GB HBM3)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def peak_memory(device: torch.device) -> int | None:
    """The most bytes of a GPU that this process's tensors have taken at once; None of the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def moved(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The batch's tensors on `device`. The host doesn't wait for the copies to a GPU."""
    if device.type != "cuda":
        return batch
    return {name: each.pin_memory().to(device, non_blocking=True) for name, each in batch.items()}
