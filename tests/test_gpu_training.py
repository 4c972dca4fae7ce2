"""The training section of `benchmarks.gpu_check`, as far as it can be told without a GPU, and without Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_curves, gpu_training
from benchmarks.gpu_curves import RUNS, apart, data
from benchmarks.gpu_findings import failures
from benchmarks.gpu_measure import DRY_MS, TINY, Context
from benchmarks.gpu_names import EAGER, PATCHED, PRODUCT
from benchmarks.gpu_report import draw_curves
from benchmarks.gpu_training import (
    COMPILED_EAGER,
    COMPILED_PATCHED,
    NO_DROPOUT,
    cases,
    classifier,
    measured,
    without_dropout,
)
from squeezebert_fast import SqueezeBertConfig, patch


@pytest.fixture(autouse=True)
def reference_in_place_of_triton(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was patched, and how it was asked for."""
    asked: list[Any] = []

    def patched(model: Any, **options: Any) -> Any:
        asked.append(options)
        return patch(model, backend="reference")

    for module in (gpu_training, gpu_curves):
        monkeypatch.setattr(module, "patch", patched)
    return asked


def test_a_training_step_has_a_row_for_each_candidate(reference_in_place_of_triton: list[Any]) -> None:
    context = Context(dry=True)
    result = cases()["training step, 32x128"](context)
    assert [row["candidate"] for row in result["rows"]] == [EAGER, PATCHED, PRODUCT]
    assert context.errors == {}
    assert result["flops"] > 0
    assert all(row["us"] == 1e3 * DRY_MS for row in result["rows"])
    # no fallback unseen, neither where gradients are checked nor where steps are timed
    assert reference_in_place_of_triton == [{"backend": "triton", "strict": True}] * 2


def test_torch_compile_and_no_dropout_have_their_cases() -> None:
    for name, expected in (
        ("training step compiled, 32x128", [EAGER, PATCHED, COMPILED_EAGER, COMPILED_PATCHED, PRODUCT]),
        ("training step without dropout, 64x512", [EAGER + NO_DROPOUT, PATCHED + NO_DROPOUT, PRODUCT]),
    ):
        context = Context(dry=True)
        assert [row["candidate"] for row in cases()[name](context)["rows"]] == expected
        assert context.errors == {}


class Event:
    """In place of CUDA's: each is recorded a millisecond after the one before."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.clock += 1.0
        self.at = Event.clock

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class OnCpu(Context):
    """As a GPU is measured, on the CPU, tiny."""

    device = property(lambda self: "cpu")  # type: ignore[assignment]
    config = property(lambda self: SqueezeBertConfig(**TINY))  # type: ignore[assignment]

    def shape(self, shape: Any) -> Any:
        return 2, 6


def test_figures_follow_from_times_and_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(gpu_training, "square_product", lambda _: (lambda number: None, 1e9))
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1234)
    monkeypatch.setattr(gpu_training, "profile", lambda call: [("a kernel", 1, 2.0)])
    context = OnCpu(dry=False, rounds=3)
    result = measured(context, (32, 128), (EAGER, PATCHED))
    assert context.errors == {}
    *steps, product = result["rows"]
    assert len(steps) == 2
    for each in steps:
        assert (each["us"], each["p20_us"], each["p80_us"], each["rounds"]) == (1000.0, 1000.0, 1000.0, 3)
        assert each["step_bytes"] == 234
        assert each["tokens_per_second"] == 12 * 1000
        assert each["tflops"] == pytest.approx(result["flops"] / 1e9, abs=0.005)
    assert product["tflops"] == pytest.approx(1.0)
    assert result["profile"] == [("a kernel", 1, 2.0)]
    assert "step_bytes" not in product


def test_a_candidate_with_wrong_gradients_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(model: Any, **_: Any) -> Any:
        model.classifier.weight.data.neg_()
        return model

    monkeypatch.setattr(gpu_training, "patch", spoilt)
    context = Context(dry=True)
    result = measured(context, (32, 128), (EAGER, PATCHED))
    assert [row["candidate"] for row in result["rows"]] == [EAGER, PRODUCT]
    assert set(context.errors) == {PATCHED}
    assert "is off by" in context.errors[PATCHED]


def test_without_dropout_nothing_is_dropped() -> None:
    model = classifier(Context(dry=True))
    ids = torch.arange(6)[None]

    def logits() -> Any:
        return model(ids).logits

    assert not torch.equal(logits(), logits())
    without_dropout(model)
    assert torch.equal(logits(), logits())


def test_the_curves_are_of_the_same_batches() -> None:
    context = Context(dry=True)
    result = gpu_curves.curves(context)
    assert context.errors == {}
    assert [run["name"] for run in result["runs"]] == [run.name for run in RUNS]
    assert all(len(run["losses"]) == 2 for run in result["runs"])
    # A dry run is float32 throughout: without dropout all of them see the same numbers.
    assert result["bfloat16_from_float32"] == 0
    assert result["patched_from_eager"] == pytest.approx(0, abs=1e-5)
    first, *_, dropped = result["runs"]
    assert first["losses"] != dropped["losses"]


def test_a_run_that_fails_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel\nhere")

    monkeypatch.setattr(gpu_curves, "patch", broken)
    context = Context(dry=True)
    result = gpu_curves.curves(context)
    assert set(context.errors) == {run.name for run in RUNS if run.patched}
    assert set(context.errors.values()) == {"RuntimeError: no kernel"}
    assert result["patched_from_eager"] is None
    assert failures([{"part": "curves", "case": "curves", **result, "errors": context.errors}]) != []


def test_the_curves_data_say_their_label_in_most_rows() -> None:
    rows = data(400, 40, 200, "train").rows
    assert rows == data(400, 40, 200, "train").rows != data(400, 40, 200, "dev").rows
    words = 50
    right = 0
    for each in rows:
        counts = [sum(1 <= index - label * words <= words for index in each["input_ids"]) for label in (0, 1)]
        right += counts[each["label"]] > counts[1 - each["label"]]
    assert 0.6 < right / len(rows) < 0.95  # one label in ten is wrong, and short rows may not say it


def test_the_curves_are_drawn_over_each_other(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_curves([{"name": run.name, "losses": [0.7, 0.6, 0.5]} for run in RUNS], tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_the_distance_of_curves() -> None:
    runs = {"a": {"losses": [1.0, 2.0]}, "b": {"losses": [1.5, 1.0]}}
    assert apart(runs, "a", "b") == 0.75
    assert apart(runs, "a", "c") is None
