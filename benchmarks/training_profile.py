"""Where the time of a patched model's training step goes: its operations, forward and backward."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.agreement import WrongEngine
from benchmarks.report import Shape
from benchmarks.training_step import BACKWARD, Batch, Candidate, StepRunner, forward_work
from squeezebert_fast import SqueezeBertConfig
from squeezebert_fast.benchmark import MultiplyAddPeaks

OPERATIONS = {
    name: (name, f"{name}Backward")
    for name in ("qkv_projection", "grouped_pointwise_conv", "grouped_mlp", "attention", "add_layer_norm")
}
OPERATIONS["word embeddings"] = "_Rows", "_RowsBackward"
"""By operation, the profiler's names of its forward and its backward. No name lies within another."""


@dataclass(frozen=True)
class Spent:
    """Seconds of one step, by the profiler's names, and of all of it."""

    by_name: dict[str, float]
    whole: float

    @property
    def rest(self) -> float:
        return self.whole - sum(self.by_name.values())


def profiled(candidate: Candidate, batch: Batch) -> Spent:
    """One step under the profiler. Raises WrongEngine where one of OPERATIONS didn't run."""
    candidate.prepare()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        start = time.perf_counter()
        candidate.step(batch)
        whole = time.perf_counter() - start
    seconds = {event.key: event.cpu_time_total / 1e6 for event in recorded.key_averages()}
    wanted = [name for names in OPERATIONS.values() for name in names]
    for name in wanted:
        if name not in seconds:
            raise WrongEngine(f"{candidate.name}: no {name} ran in the profiled step")
    return Spent({name: seconds[name] for name in wanted}, whole)


def profile_case(
    candidate: Candidate, batch: Batch, config: SqueezeBertConfig, repeats: int
) -> list[dict[str, Any]]:
    """A row for each operation, the rest and the step: medians over `repeats` steps, and fractions of the peak."""
    shape: Shape = (batch.input_ids.shape[0], batch.input_ids.shape[1])
    work, peaks = (
        forward_work(config, shape),
        MultiplyAddPeaks(dict.fromkeys((candidate.precision, "float32"))),
    )
    steps = []
    for _ in range(repeats):
        steps.append(profiled(candidate, batch))
        peaks.sample()
    whole = median(step.whole for step in steps)
    rows: list[dict[str, Any]] = []
    for operation, (forward, backward) in OPERATIONS.items():
        row: dict[str, Any] = {"operation": operation}
        of_both = 0.0
        for direction, name, products in (("forward", forward, 1), ("backward", backward, BACKWARD)):
            spent = median(step.by_name[name] for step in steps)
            of_both += spent
            row[f"{direction}_ms"] = 1e3 * spent
            if operation in work:
                # scores and their product with the values are float32 whatever the precision
                peak = peaks["float32" if work[operation].scores else candidate.precision]
                row[f"{direction}_flops"] = flops = products * work[operation].flops
                row[f"{direction}_fraction_of_peak"] = None if peak is None else flops / spent / peak
        rows.append({**row, "of_step": of_both / whole})
    rest = median(step.rest for step in steps)
    rows.append({"operation": "rest", "both_ms": 1e3 * rest, "of_step": rest / whole})
    rows.append({"operation": "step", "both_ms": 1e3 * whole, "of_step": 1.0})
    common = {"precision": candidate.precision, "peak_flops_per_second": peaks[candidate.precision]}
    return [{**common, **row} for row in rows]


def profile_runner(runner: StepRunner, config: SqueezeBertConfig, repeats: int) -> list[dict[str, Any]]:
    """`profile_case` of what a process measures."""
    return profile_case(runner.candidate, runner.batch, config, repeats)
