"""How `benchmarks.gpu_check` times on a GPU, and what the GPU can do at most.

Candidates take turns (A B C A B C ...), medians; ratios hold within one case. A dry run has no GPU: everything runs
once, on the CPU or on tensors without data, and each time is made up: DRY_MS.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.gpu_names import COPY, PRODUCT
from benchmarks.report import Shape
from squeezebert_fast import SqueezeBertConfig

Call = Callable[[int], object]
"""A candidate: called with the number of the round, so that it can take other inputs each time."""

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    **{f"{name}_groups": 2 for name in ("q", "k", "v", "intermediate", "output")},
}
INPUT_SETS = 4
DRY_MS = 1.0


@dataclass
class Context:
    """How and how long a case measures."""

    dry: bool
    seconds: float = 8.0
    """For timed rounds, compiling and warming up not counted."""
    rounds: int = 30
    errors: dict[str, str] = field(default_factory=dict)
    """By candidate, why it was left out."""

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.dry else torch.bfloat16

    @property
    def config(self) -> SqueezeBertConfig:
        return SqueezeBertConfig(**TINY) if self.dry else SqueezeBertConfig()

    def shape(self, shape: Shape) -> Shape:
        return (min(2, shape[0]), 6) if self.dry else shape


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def synchronize(context: Context) -> None:
    if not context.dry:
        torch.cuda.synchronize()


def runnable(candidates: Mapping[str, Call], context: Context, warmup: int = 3) -> dict[str, Call]:
    """Those that run; of the others the error is kept. One that broke the GPU's context ends the case."""
    alive = {}
    for name, run in candidates.items():
        try:
            for number in range(1 if context.dry else warmup):
                run(number)
            synchronize(context)
            alive[name] = run
        except Exception as error:
            context.errors[name] = one_line(error)
            synchronize(context)
    return alive


def interleaved(candidates: Mapping[str, Call], context: Context) -> dict[str, list[float]]:
    """Milliseconds of every round by candidate, by the GPU's clock."""
    alive = runnable(candidates, context)
    times: dict[str, list[float]] = {name: [DRY_MS] * context.dry for name in alive}
    start = time.monotonic()
    for number in range(0 if context.dry else context.rounds):
        events = {}
        for name, run in alive.items():
            events[name] = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[name][0].record()
            run(number)
            events[name][1].record()
        torch.cuda.synchronize()
        for name, (begin, end) in events.items():
            times[name].append(begin.elapsed_time(end))
        if time.monotonic() - start > context.seconds:
            break
    return times


def captured(candidates: Mapping[str, Call], context: Context, calls: int) -> dict[str, list[float]]:
    """`interleaved` for short kernels: each is captured `calls` times in a CUDA graph, so that no launch is waited for.

    Times are of one call.
    """
    if context.dry:
        return interleaved(candidates, context)
    graphs: dict[str, Call] = {}
    for name, run in runnable(candidates, context).items():
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for number in range(calls):
                    run(number)
        except Exception as error:
            context.errors[name] = one_line(error)
            torch.cuda.synchronize()
            continue
        graphs[name] = lambda _, graph=graph: graph.replay()
    return {name: [ms / calls for ms in times] for name, times in interleaved(graphs, context).items()}


def host_latency(candidates: Mapping[str, Call], context: Context) -> dict[str, list[float]]:
    """Milliseconds from a call to its results, on the host's clock, candidates taking turns."""
    times: dict[str, list[float]] = {
        name: [DRY_MS] * context.dry for name in interleaved(candidates, replace(context, seconds=0.0))
    }
    for number, name in itertools.product(range(0 if context.dry else 100), times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        candidates[name](number)
        torch.cuda.synchronize()
        times[name].append(1e3 * (time.perf_counter() - start))
    return times


def row(name: str, times: Sequence[float], flops: float = 0.0, moved: float = 0.0) -> dict[str, Any]:
    """One candidate's figures: microseconds, and operations (flops) and bytes (moved) a second."""
    us = 1e3 * statistics.median(times)
    quantiles = statistics.quantiles(times, n=5) if len(times) > 1 else [times[0]] * 4
    found: dict[str, Any] = {"candidate": name, "us": round(us, 3), "rounds": len(times)}
    found |= {"p20_us": round(1e3 * quantiles[0], 3), "p80_us": round(1e3 * quantiles[3], 3)}
    if flops:
        found["tflops"] = round(flops / us / 1e6, 2)
    if moved:
        found["gbytes_per_second"] = round(moved / us / 1e3, 1)
    return found


def square_product(context: Context, size: int = 8192) -> tuple[Call, float]:
    """A large product in bfloat16, and its operations: what the GPU can multiply at that moment."""
    size = 16 if context.dry else size
    a, b = (torch.randn(size, size, device=context.device, dtype=context.dtype) for _ in range(2))
    c = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=c), 2.0 * size**3


def ceilings(context: Context) -> dict[str, Any]:
    """What the GPU multiplies in bfloat16, and copies, reads and writes counted."""
    product, flops = square_product(context)
    elements = 64 if context.dry else 2**30
    source = torch.randint(0, 100, (elements,), dtype=torch.int16, device=context.device)
    target = torch.empty_like(source)
    times = interleaved({PRODUCT: product, COPY: lambda _: target.copy_(source)}, context)
    work = {PRODUCT: (flops, 0.0), COPY: (0.0, 2.0 * source.nbytes)}
    return {"rows": [row(name, ms, *work[name]) for name, ms in times.items()]}
