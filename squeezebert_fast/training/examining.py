"""A model's metrics on a file's examples, and all that helps to understand them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from squeezebert_fast.pretrained import Model
from squeezebert_fast.training import devices
from squeezebert_fast.training.evaluation import evaluate
from squeezebert_fast.training.metrics import Calibration, calibration
from squeezebert_fast.training.tasks.base import Batch, DataSet
from squeezebert_fast.training.tasks.judged import JudgedTask, Judgement, Measured, Tables


@dataclass(frozen=True)
class Report:
    """metrics: as `evaluate` gives them. tables, calibration: None where a task has none. judgements: by example."""

    metrics: dict[str, float]
    tables: Tables | None
    calibration: Calibration | None
    judgements: list[Judgement]

    def worst(self, count: int) -> list[Judgement]:
        """The examples of the highest losses, the worst first."""
        return sorted(self.judgements, key=lambda each: -each.loss)[:count]

    def as_json(self, worst: int = 0) -> dict[str, Any]:
        """Everything, and of single examples the worst, as JSON values."""
        found: dict[str, Any] = dict(self.metrics)
        if self.tables is not None:
            found["classes"] = {name: figures._asdict() for name, figures in self.tables.classes.items()}
            confusion = self.tables.confusion
            found["confusion"] = {"labels": list(confusion.names), "counts": confusion.counts.tolist()}
        if self.calibration is not None:
            bins = [each._asdict() for each in self.calibration.bins]
            found["calibration"] = {**self.calibration._asdict(), "bins": bins}
        if worst:
            found["worst"] = [{**each.shown, **each.verdict} for each in self.worst(worst)]
        return found


def examine(
    model: Model,
    task: JudgedTask,
    data: DataSet,
    pad: int,
    batch_size: int,
    *,
    device: torch.device = devices.CPU,
) -> Report:
    """A report on a model; arguments and what it raises as for `evaluate`."""
    answers: dict[int, Any] = {}
    measured: dict[int, Measured] = {}

    def note(indices: Sequence[int], output: Any, batch: Batch, said: Sequence[Any]) -> None:
        answers.update(zip(indices, said, strict=True))
        measured.update(zip(indices, task.measured(output, batch, said), strict=True))

    metrics = evaluate(model, task, data, pad, batch_size, each_output=note, device=device)
    in_order = [answers[index] for index in range(len(data.rows))]
    judgements = task.judge(
        data.examples, data.rows, in_order, [measured[index] for index in range(len(data.rows))]
    )
    said = [answer for each in judgements for answer in each.answers]
    return Report(
        metrics,
        task.tables(data.examples, data.rows, in_order),
        calibration([each.sure for each in said], [each.right for each in said]) if said else None,
        judgements,
    )
