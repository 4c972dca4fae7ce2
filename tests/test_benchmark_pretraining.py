"""`benchmarks.pretraining`: its candidates do the same work, and it counts what that is."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pretraining
from benchmarks.pretraining import ALL, CANDIDATES, MASKED, Run, child, config_of, step_work
from benchmarks.training_step import step_flops
from squeezebert_fast import SqueezeBertForMaskedLM

CONFIG = config_of(1, 64)
SHAPE = (3, 40)


def test_the_head_on_masked_tokens_alone_has_the_loss_of_all_tokens() -> None:
    losses = []
    for candidate in (ALL, MASKED):
        run = Run(candidate, SHAPE, CONFIG)
        run.model.eval()
        batch = run.task.collate(run.rows, 0, 0)
        assert batch["input_ids"].shape == SHAPE
        losses.append(run.loss(run.model, batch))
    torch.testing.assert_close(*losses)


def test_the_operations_of_the_head_are_counted() -> None:
    model, tokens = SqueezeBertForMaskedLM(CONFIG), 30
    with FlopCounterMode(display=False) as counter:
        model.cls(torch.randn(tokens, 64, requires_grad=True)).sum().backward()
    encoder, head = step_work(CONFIG, SHAPE, tokens / (SHAPE[0] * SHAPE[1]))
    assert head == counter.get_total_flops()
    assert encoder == step_flops(CONFIG, SHAPE)


@pytest.mark.parametrize("part", ["step", "evaluation"])
@pytest.mark.parametrize("candidate", CANDIDATES)
def test_every_candidate_is_measured(candidate: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "STEPS_BEFORE", 1)
    taken = child(candidate, part, SHAPE, CONFIG, 2)
    assert len(taken["cpu_seconds"]) == 2
    assert taken["peak_bytes"] >= taken["before_bytes"] > 0
    assert taken["tokens_to_predict"] == pytest.approx(0.15 * SHAPE[0] * SHAPE[1], abs=3)
