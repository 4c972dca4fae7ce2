"""A model's metrics on a file's examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from squeezebert_fast.errors import TrainingError
from squeezebert_fast.pretrained import Model
from squeezebert_fast.training import devices
from squeezebert_fast.training.batches import sorted_batches
from squeezebert_fast.training.metrics import LOWER_IS_BETTER
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.tasks.base import Batch, DataSet, Task

FIXED_EPOCH = -1  # what tasks draw at random for an evaluation is the same in each


def evaluate(
    model: Model,
    task: Task,
    data: DataSet,
    pad: int,
    batch_size: int,
    processes: Processes | None = None,
    each_batch: Callable[[], None] = lambda: None,
    *,
    each_output: Callable[[Sequence[int], Any, Batch, Sequence[Any]], None] = lambda *_: None,
    device: torch.device = devices.CPU,
) -> dict[str, float]:
    """The mean loss and the task's metrics, in float32 or whatever `model` is patched for.

    pad: the padding token's id. processes: share the work; all get the result. each_batch: called before each.
    each_output: called with the indices of rows, the model's output for them, their batch and the task's answers.
    device: where `model` is, which one with given-up weights can't tell.
    Leaves the model in eval mode. Raises TrainingError for a loss that isn't finite.
    """
    processes = processes or Processes()
    model.eval()
    loss, count = 0.0, 0
    answers: dict[int, Any] = {}
    batches = sorted_batches(data.lengths, batch_size)
    with torch.inference_mode():
        for indices in batches[processes.rank :: processes.world]:
            each_batch()
            on_cpu = task.collate([data.rows[index] for index in indices], pad, FIXED_EPOCH)
            batch = devices.moved(on_cpu, device)
            output = task.forward(model, batch)
            loss += float(task.loss(output, batch))
            count += task.count(on_cpu)
            said = task.answers(output, batch)
            answers.update(zip(indices, said, strict=True))
            each_output(indices, output, batch, said)
    loss, total = processes.total([loss, count])
    if not math.isfinite(loss):
        raise TrainingError(f"the loss on the evaluation data is {loss}: damaged weights?")
    everyones: dict[int, Any] = {}
    for part in processes.gather(answers):
        everyones |= part
    in_order = [everyones[index] for index in range(len(data.rows))]
    return {"loss": loss / max(total, 1), **task.score(data.examples, data.rows, in_order)}


def can_choose(task: Task, data: DataSet, metric: str) -> bool:
    """Whether the metric can tell models apart on this data: there, right answers score more than nothing.

    They don't where the data has nothing to find: no entity, no example of the second class, one number alone.
    """
    right = None if metric in LOWER_IS_BETTER else task.right_answers(data.rows)
    return right is None or task.score(data.examples, data.rows, right)[metric] > 0
