"""One step of training.

    batch -> this process's share -> accumulate passes -> sum of losses / what they count -> gradient
                                                                                                |
     AdamW, learning rate <- checked <- clipped <- summed over processes <----------------------+

The loss of a step is the sum over everything in its batch that has a label, divided by how much that is, counted
over all passes and processes. So how a batch is cut changes the result by rounding alone, also where rows have
different numbers of labels, and that is why this isn't DistributedDataParallel, which averages by process.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from squeezebert_fast.pretrained import Model
from squeezebert_fast.training import devices
from squeezebert_fast.training.averaging import moving_average
from squeezebert_fast.training.batches import epoch_batches, share
from squeezebert_fast.training.optimizing import Optimizer
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.seeds import seed_of
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.tasks.base import Batch, DataSet, Task


class NotFinite(Exception):
    """A step's loss or gradient isn't finite; it hasn't reached the parameters."""


class Stepped(NamedTuple):
    """loss: the step's mean. norm: of the gradient before it was clipped, infinite or NaN where the step was skipped.
    rate: the learning rate. tokens: of all processes."""

    loss: float
    norm: float
    rate: float
    tokens: float


class Steps:
    """The steps of a run, in order, which train `model` in place.

    pad: the padding token's id. device: where `model` is. `total` is how many there are, `per_epoch` how many of an
    epoch.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        data: DataSet,
        *,
        pad: int,
        settings: Settings,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.model, self.task, self.data = model, task, data
        self.pad, self.settings, self.processes, self.device = pad, settings, processes, device
        self.lengths = data.lengths
        self.per_epoch = -(-len(data.rows) // settings.batch_size)
        assert settings.epochs is not None  # see Settings.filled
        self.total = settings.epochs * self.per_epoch
        if settings.max_steps is not None:
            self.total = min(self.total, settings.max_steps)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Optimizer(self.parameters, settings, self.total, device)
        self.average = moving_average(model, settings.average) if settings.average else None
        self._epoch_batches: tuple[int, list[list[int]]] = (-1, [])

    @property
    def result(self) -> Model:
        """The model that is evaluated and kept: the average, or else the one that is trained."""
        return self.model if self.average is None else self.average.module

    def make(self, done: int, stop: bool) -> Stepped | None:
        """The step after `done` others; None, and nothing happened, if any process was asked to stop.

        Raises NotFinite, before anything reaches the parameters.
        """
        parts = self._parts(done)
        counts = [self.task.count(batch) for batch, _ in parts]
        tokens = sum(int(batch["attention_mask"].sum()) * weight for batch, weight in parts)
        counted = sum(count * weight for count, (_, weight) in zip(counts, parts, strict=True))
        # One message decides for all processes: they must stop before the same step.
        total, all_tokens, asked_to_stop = self.processes.total([counted, tokens, stop])
        if asked_to_stop:
            return None
        torch.manual_seed(seed_of(self.settings.seed, "dropout", done, self.processes.rank))
        loss, norm = self._gradients(parts, max(total, 1.0))
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss} at step {done + 1}")
        if not math.isfinite(norm) and not self.optimizer.may_skip:
            scaled = f", with a loss scale of {self.optimizer.scale:.1e}" if self.optimizer.scales else ""
            raise NotFinite(f"the gradient is not finite at step {done + 1}{scaled}")
        rate = self.optimizer.rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return Stepped(loss, norm, rate, all_tokens)

    def _parts(self, done: int) -> list[tuple[Batch, int]]:
        """The batches that this process runs in this step, each with whether it counts.

        A batch may have fewer rows than there are processes. Who is left without one runs the first for
        nothing, so that every process has gradients of the same parameters to add up.
        """
        epoch, place = divmod(done, self.per_epoch)
        if self._epoch_batches[0] != epoch:
            batches = epoch_batches(self.lengths, self.settings.batch_size, self.settings.seed, epoch)
            self._epoch_batches = (epoch, batches)
        indices = self._epoch_batches[1][place]
        own = share(indices, self.processes.rank, self.processes.world, self.settings.accumulate)
        rows = [[self.data.rows[index] for index in part] for part in own or [indices[:1]]]
        return [(self.task.collate(part, self.pad, epoch), 1 if own else 0) for part in rows]

    def _gradients(self, parts: list[tuple[Batch, int]], total: float) -> tuple[float, float]:
        """Fill the gradients of the step's mean loss; returns that loss, and their norm before they were clipped."""
        self.model.train()
        self.optimizer.zero_grad()
        summed = torch.zeros((), dtype=torch.float64, device=self.device)
        for on_cpu, weight in parts:
            batch = devices.moved(on_cpu, self.device)
            with self.optimizer.autocast():
                output = self.task.forward(self.model, batch, hidden_states=self.task.needs_hidden_states)
            loss = self.task.loss(output, batch) * (weight / total)
            self.optimizer.backward(loss)
            summed += loss.detach()
        self.processes.add_up([p.grad for p in self.parameters if p.grad is not None])
        # The one time that the host waits for a GPU in a step.
        loss_here, norm = torch.stack([summed, self.optimizer.clip()]).tolist()
        return self.processes.total([loss_here])[0], norm

    def state(self) -> dict[str, Any]:
        """For a checkpoint, from which `load` goes on, on whatever device."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            **self.optimizer.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError or RuntimeError for a state that isn't of such a run."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load(state)
