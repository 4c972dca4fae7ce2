"""`benchmarks.training`: it measures the step that it says, and counts what that step does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training, training_profile, training_step
from benchmarks.agreement import WrongEngine, check_gradients
from benchmarks.peers import EngineUnavailable
from benchmarks.training_memory import memory_of_a_step, peak_during
from benchmarks.training_step import (
    COMPILED,
    EAGER,
    PATCHED,
    PRECISIONS,
    Batch,
    Candidate,
    candidate,
    check_patched,
    forward_work,
    random_batch,
    step_flops,
    warm_up,
)
from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import encoder_flops
from squeezebert_fast.ops import reference
from tests.loading_helpers import make

needs_native = pytest.mark.skipif(
    cpu.native_module_missing() is not None, reason="the native module is not built"
)
SIZES = {"hidden_size": 16, "embedding_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
CONFIG = SqueezeBertConfig(**SIZES, num_hidden_layers=2)


def tiny_classifier(layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.SqueezeBertConfig(**SIZES, num_hidden_layers=layers)
    return transformers.SqueezeBertForSequenceClassification(config).train()


def warm(engine: str, precision: str, batch: Batch) -> Candidate:
    built = candidate(engine, precision, tiny_classifier())
    warm_up(built, batch)
    return built


def batched_products(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A grouped convolution without a convolution: of its backward, torch's counter leaves the groups out."""
    rows = x.reshape(-1, groups, x.shape[-1] // groups).transpose(0, 1)
    product = torch.bmm(rows, weight.view(groups, -1, rows.shape[-1]).mT)
    return product.transpose(0, 1).reshape(*x.shape[:-1], -1) + bias


@pytest.mark.parametrize("seed", range(3))
def test_a_step_costs_what_torch_counts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "grouped_pointwise_conv", batched_products)
    config = make(hidden_size=16 * (seed + 1), **[{}, {"q_groups": 4}, {"output_groups": 8}][seed]).config
    model = SqueezeBertModel(config).eval()
    batch, tokens = seed + 1, 3 * seed + 2
    x = torch.randn(batch, tokens, config.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.encoder(x).last_hidden_state.sum().backward()
    assert step_flops(config, (batch, tokens)) == counter.get_total_flops()


def test_the_operations_of_a_forward_are_those_of_the_encoder() -> None:
    work = forward_work(SqueezeBertConfig(), (2, 33))
    assert sum(each.flops for each in work.values()) == encoder_flops(SqueezeBertConfig(), 2, 33)
    assert work.keys() <= training_profile.OPERATIONS.keys()


@pytest.mark.parametrize("keep", [False, True])
def test_between_steps_gradients_are_gone_or_zeros_and_weights_are_as_if_updated(keep: bool) -> None:
    built = warm(EAGER, "float32", batch := random_batch((2, 5)))
    built.step(batch)
    weights = dict(built.model.named_parameters())
    before = {name: (w.detach().clone(), w._version, w.grad) for name, w in weights.items()}
    assert any(bool(gradient.any()) for _, _, gradient in before.values() if gradient is not None)
    built.prepare(keep_gradients=keep)
    for name, weight in weights.items():
        value, version, gradient = before[name]
        assert torch.equal(weight, value)
        assert weight._version > version
        assert weight.grad is (gradient if keep else None)
        assert not keep or (gradient is not None and not gradient.any())


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_patched_model_is_checked_against_eager(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_classifier()
    check_patched(precision, base)
    assert all(p.grad is None for p in base.parameters())

    def spoilt(model: nn.Module, strict: bool) -> None:
        model.transformer.encoder.layers[1].output.conv1d.weight.data.neg_()  # type: ignore[union-attr]

    monkeypatch.setattr(training_step, "patch", spoilt)
    with pytest.raises(WrongEngine, match=r"the gradient of \S+ differs from eager's by"):
        check_patched(precision, base)


def test_gradients_must_be_there_and_near_but_for_those_that_are_nothing() -> None:
    expected = {"large": torch.tensor([3.0, 4.0]), "nothing": torch.tensor([1e-9])}
    near = {"large": torch.tensor([3.0, 4.0001]), "nothing": torch.tensor([-1e-6])}
    check_gradients("x", "float32", near, expected)
    for wrong in (torch.tensor([3.0, 4.01]), torch.tensor([3.0, torch.nan])):
        with pytest.raises(WrongEngine, match="x: the gradient of large"):
            check_gradients("x", "float32", {**expected, "large": wrong}, expected)
    with pytest.raises(WrongEngine, match="x: the gradient of nothing"):
        check_gradients("x", "float32", {**expected, "nothing": torch.tensor([0.1])}, expected)
    with pytest.raises(WrongEngine, match="other parameters"):
        check_gradients("x", "float32", {"large": expected["large"]}, expected)


@needs_native
def test_each_precision_is_held_against_eager_in_it() -> None:
    batch = random_batch((2, 5))
    candidates = [warm(engine, precision, batch) for precision in PRECISIONS for engine in (EAGER, PATCHED)]
    cases = training.measure_steps(candidates, batch, CONFIG, repeats=2)
    assert [rows[0].case for rows in cases] == ["2x5 float32", "2x5 bfloat16 autocast"]
    for rows in cases:
        assert [row.timing.name for row in rows] == [EAGER, PATCHED]
        assert {len(row.timing.seconds) for row in rows} == {2}
        assert all(row.baseline is row.best_peer is rows[0].timing for row in rows)
        assert rows[1].flops == step_flops(CONFIG, (2, 5))


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_operation_of_ours_has_its_time_and_they_make_up_the_step(precision: str) -> None:
    batch = random_batch((2, 5))
    rows = training_profile.profile_case(warm(PATCHED, precision, batch), batch, CONFIG, repeats=1)
    *operations, rest, step = rows
    assert [row["operation"] for row in operations] == list(training_profile.OPERATIONS)
    parts = [row.get("forward_ms", 0.0) + row["backward_ms"] for row in operations]
    assert min(parts) > 0 < rest["both_ms"]
    assert sum(parts) + rest["both_ms"] == pytest.approx(step["both_ms"])
    assert sum(row["of_step"] for row in rows[:-1]) == pytest.approx(1.0)
    counted = sum(row.get("forward_flops", 0) + row.get("backward_flops", 0) for row in operations)
    assert counted == step_flops(CONFIG, (2, 5))
    assert training.profile_table([{"case": "2x5", **row} for row in rows]).row_count == len(rows)


def test_a_step_without_our_operations_is_not_profiled_as_ours() -> None:
    batch = random_batch((2, 5))
    with pytest.raises(WrongEngine, match="no qkv_projection ran"):
        training_profile.profiled(warm(EAGER, "float32", batch), batch)


def test_a_failing_compiler_is_a_reason_and_other_failures_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(nn.Module):
        def forward(self, **_: object) -> None:
            raise RuntimeError("no C++ compiler\nhere")

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: Failing())
    built = candidate(COMPILED, "float32", tiny_classifier())
    with pytest.raises(EngineUnavailable, match=r"it fails: no C\+\+ compiler$"):
        warm_up(built, random_batch((2, 5)))
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler"):
        warm_up(Candidate(EAGER, "float32", Failing(), Failing()), random_batch((2, 5)))


MEGABYTES_64 = 1 << 26


def test_the_peak_counts_what_is_freed_within_and_not_what_was_freed_before() -> None:
    torch.ones(4 * MEGABYTES_64, dtype=torch.uint8)

    def run() -> None:
        torch.ones(MEGABYTES_64, dtype=torch.uint8)

    before, peak = peak_during(run)
    # Linux counts pages in batches, a thread at a time
    assert 0.9 * MEGABYTES_64 < peak - before < 2 * MEGABYTES_64


def test_memory_is_told_by_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.training_memory.base_classifier", tiny_classifier)
    taken = memory_of_a_step(EAGER, "float32", (2, 5), layers=1)
    assert taken["gradients_bytes"] == 4 * sum(p.numel() for p in tiny_classifier(1).parameters())
    assert 0 < taken["before_bytes"] <= taken["peak_bytes"]


def test_memory_is_held_against_eagers(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {
        EAGER: {"loaded_bytes": 100, "gradients_bytes": 50, "before_bytes": 160, "peak_bytes": 360},
        PATCHED: {"loaded_bytes": 100, "gradients_bytes": 50, "before_bytes": 190, "peak_bytes": 240},
    }
    monkeypatch.setattr(training, "in_a_process", lambda engine, *_: taken[engine])
    eager, patched = training.memory_rows([EAGER, PATCHED], "bfloat16", (2, 5), 1)
    assert (eager["step_bytes"], eager["kept_bytes"], eager["of_eager"]) == (200, 10, 1.0)
    assert (patched["step_bytes"], patched["kept_bytes"], patched["of_eager"]) == (50, 40, 0.25)
    assert (eager["with_kept_of_eager"], patched["with_kept_of_eager"]) == (1.0, 90 / 210)
    assert training.memory_table([eager, patched]).row_count == 2


@pytest.mark.slow
@needs_native
def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.training", "--out", str(tmp_path), "--no-compile"]
    options = [
        "--layers",
        "1",
        "--shapes",
        "1x4",
        "--repeats",
        "1",
        "--precisions",
        "float32",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [*command, *options], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "training.json").read_text())
    assert written["layers"] == 1
    assert [row["candidate"] for row in written["rows"]] == [EAGER, PATCHED]
    assert [row["candidate"] for row in written["memory"]] == [EAGER, PATCHED]
    assert written["profile"][-1]["operation"] == "step"
    assert (tmp_path / "training.svg").exists()
