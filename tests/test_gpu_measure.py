"""How `benchmarks.gpu_check` times, on stand-ins for CUDA's events and graphs; what it holds our kernels against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks import gpu_measure
from benchmarks.gpu_measure import Context, captured, interleaved, row


class Event:
    """In place of CUDA's: a call of a candidate takes the milliseconds that it says."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.clock

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Graph:
    """In place of CUDA's: what ran while it was captured takes its time again in each replay."""

    def replay(self) -> None:
        Event.clock += self.taken


@contextlib.contextmanager
def capturing(graph: Graph) -> Iterator[None]:
    begin = Event.clock
    yield
    graph.taken = Event.clock - begin


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return Context(dry=False, rounds=5)


def taking(ms: float) -> Any:
    def run(number: int) -> None:
        Event.clock += ms

    return run


def broken(number: int) -> None:
    raise RuntimeError("out of shared memory\nand more")


def test_candidates_take_turns_and_one_that_fails_is_left_out(gpu: Context) -> None:
    times = interleaved({"a": taking(2.0), "b": broken, "c": taking(3.0)}, gpu)
    assert times == {"a": [2.0] * 5, "c": [3.0] * 5}
    assert gpu.errors == {"b": "RuntimeError: out of shared memory"}


def test_times_of_a_graph_are_those_of_one_call(gpu: Context) -> None:
    times = captured({"a": taking(0.25), "b": broken}, gpu, calls=8)
    assert times == {"a": [0.25] * 5}
    assert set(gpu.errors) == {"b"}


def test_what_breaks_the_context_ends_the_case(gpu: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def sticky() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", sticky)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        interleaved({"a": broken, "b": taking(1.0)}, gpu)


def test_in_a_dry_run_all_times_are_made_up() -> None:
    context = Context(dry=True)
    assert captured({"a": lambda number: None}, context, calls=8) == {"a": [gpu_measure.DRY_MS]}


@pytest.mark.parametrize("times", [[1.5], [1.0, 2.0], [1.0, 1.5, 7.0]])
def test_a_row_of_few_times(times: list[float]) -> None:
    one = row("x", times, flops=3e9, moved=3e6)
    assert (one["us"], one["rounds"]) == (1500.0, len(times))
    assert (one["tflops"], one["gbytes_per_second"]) == (2.0, 2.0)
    assert "tflops" not in row("x", times)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_pytorchs_product_of_groups_is_the_convolution(groups: int, bias: bool) -> None:
    pytest.importorskip("triton")
    from benchmarks.gpu_kernels import torch_product

    generator = torch.Generator().manual_seed(0)
    x, weight, b = (torch.randn(*s, generator=generator) for s in ((2, 5, 8), (12, 8 // groups, 1), (12,)))
    y = torch_product(x, weight, b if bias else None, groups)
    expected = F.conv1d(x.mT, weight, b if bias else None, groups=groups).mT
    torch.testing.assert_close(y, expected)
