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
from benchmarks.memory import peak_during
from benchmarks.report import table
from benchmarks.training_memory import memory_of_a_step
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
from squeezebert_fast.benchmark import CandidateFailed, Timing, encoder_flops
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
    with pytest.raises(WrongEngine, match=r"the gradient of \S+ is off by"):
        check_patched(precision, base)


def test_gradients_may_be_twice_as_far_from_float64_as_eagers_but_for_those_that_are_nothing() -> None:
    exact = {"large": torch.tensor([3.0, 4.0]).double(), "nothing": torch.tensor([1e-9]).double()}
    eager = {"large": torch.tensor([3.0, 4.01]), "nothing": torch.tensor([2e-9])}
    near = {"large": torch.tensor([3.0, 3.981]), "nothing": torch.tensor([-1e-8])}
    check_gradients("x", "float32", near, eager, exact)
    for wrong in (torch.tensor([3.0, 3.979]), torch.tensor([3.0, torch.nan])):
        with pytest.raises(WrongEngine, match="x: the gradient of large"):
            check_gradients("x", "float32", {**near, "large": wrong}, eager, exact)
    with pytest.raises(WrongEngine, match="x: the gradient of nothing"):
        check_gradients("x", "float32", {**near, "nothing": torch.tensor([0.1])}, eager, exact)
    with pytest.raises(WrongEngine, match="other parameters"):
        check_gradients("x", "float32", {"large": near["large"]}, eager, exact)


def test_bfloat16_may_lose_what_eager_loses_in_it() -> None:
    exact = {"small": torch.tensor([1.0]).double()}
    check_gradients("x", "bfloat16", {"small": torch.tensor([1.2])}, {"small": torch.tensor([0.9])}, exact)
    with pytest.raises(WrongEngine, match=r"off by 0\.3 of its norm, eager's by 0\.1"):
        check_gradients(
            "x", "bfloat16", {"small": torch.tensor([1.3])}, {"small": torch.tensor([0.9])}, exact
        )


@pytest.mark.parametrize(
    ("precision", "case"), [("float32", "2x5 float32"), ("bfloat16", "2x5 bfloat16 autocast")]
)
def test_each_precision_is_held_against_eager_and_the_best_peer_in_it(precision: str, case: str) -> None:
    timings = [Timing(EAGER, (0.4,)), Timing(COMPILED, (0.3,)), Timing(PATCHED, (0.1,))]
    rows = training.rows_of(precision, (2, 5), timings, CONFIG, peak=1e9)
    assert [row.timing for row in rows] == timings
    assert rows[-1].speed_up == pytest.approx(4.0)
    assert rows[-1].over_best_peer == pytest.approx(3.0)
    for row in rows:
        assert (row.case, row.precision, row.flops) == (case, precision, step_flops(CONFIG, (2, 5)))


def test_without_eager_the_others_keep_their_figures() -> None:
    rows = training.rows_of("float32", (2, 5), [Timing(PATCHED, (0.1,))], CONFIG, peak=None)
    assert [(row.baseline.name, row.best_peer) for row in rows] == [(PATCHED, None)]
    assert table(rows).row_count == 1


@needs_native
def test_a_process_takes_the_step_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "base_classifier", tiny_classifier)
    runner = training_step.StepRunner(PATCHED, "float32", (2, 5), 2)
    runner.prepare()
    assert all(p.grad is None for p in runner.candidate.model.parameters())
    runner.call()
    assert any(p.grad is not None for p in runner.candidate.model.parameters())
    assert training_profile.profile_runner(runner, CONFIG, 1)[-1]["operation"] == "step"


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

    def in_a_process(engine: str, *_: object) -> dict[str, int]:
        if engine == COMPILED:
            raise CandidateFailed("no memory left")
        return taken[engine]

    monkeypatch.setattr(training, "in_a_process", in_a_process)
    left_out: dict[str, str] = {}
    eager, patched = training.memory_rows([EAGER, COMPILED, PATCHED], "bfloat16", (2, 5), 1, left_out)
    assert left_out == {f"{COMPILED}, memory": "no memory left"}
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
