"""One process, or several that `torchrun` started and that train one model together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from squeezebert_fast.errors import SqueezeBertFastError, TrainingError

Value = TypeVar("Value")


class Processes:
    """The group of processes; alone, every operation is the identity.

    `rank` counts from 0, which alone writes files and prints; `world` is how many there are; `local_rank` counts
    those of one machine.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0) -> None:
        self.rank, self.world, self.local_rank = rank, world, local_rank

    @classmethod
    def of_environment(cls) -> Processes:
        """The processes that torchrun's environment variables tell of, not connected."""
        if "RANK" not in os.environ:
            return cls()
        world, local_rank = (
            int(os.environ.get(*each)) for each in (("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        return cls(int(os.environ["RANK"]), world, local_rank)

    @classmethod
    @contextmanager
    def joined(cls, device: torch.device) -> Iterator[Processes]:
        """`of_environment`, connected while the block runs: by gloo, and what is on GPUs by NCCL.

        device: the process's own. Raises TrainingError if they can't connect.
        """
        processes = cls.of_environment()
        if processes.world == 1:
            yield processes
            return
        # Its functions' default arguments are the group of the moment in which it is first imported (an optimizer
        # imports it). They would keep that group, and its threads, alive until the interpreter is gone, and a thread
        # that then lets go of a tensor aborts the process.
        from torch.distributed.nn import functional  # noqa: F401

        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        except Exception as error:  # a store's, a socket's or a plain RuntimeError
            reason = str(error).partition("\n")[0]
            raise TrainingError(f"the {processes.world} processes can't connect: {reason}") from error
        try:
            yield processes
        finally:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over all processes."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes: one message for all, with the same bits everywhere."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, work: Callable[[], Value]) -> Value:
        """What `work` gives in the first process, which alone runs it; its error is raised in all."""
        result: Value | None = None
        error: Exception | None = None
        if self.first:
            try:
                result = work()
            except (SqueezeBertFastError, OSError) as caught:
                error = caught
        if self.world > 1:
            held = [(result, error)]
            dist.broadcast_object_list(held)
            result, error = held[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]
