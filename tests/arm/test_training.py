"""A training step of a patched model on the emulated CPU: gradients of the plain one, and a loss that falls."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast.backends import cpu
from tests.arm.models import batch, on_every_build, patched, small_model
from tests.helpers import assert_within_rule


def gradients(model: Any, autocast: bool = False) -> dict[str, Tensor]:
    inputs = batch(tokens=21)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        output = model(**inputs, labels=torch.tensor([0, 1, 1]))
    output.loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@on_every_build
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_gradients_are_those_of_the_plain_model(build: str, autocast: bool) -> None:
    model = small_model().train()
    exact = gradients(copy.deepcopy(model).double())
    same = gradients(copy.deepcopy(model), autocast)
    with cpu.use_instruction_set(build):
        actual = gradients(patched(model), autocast)
    # Side by side: a parameter whose gradient is rounding alone, as a key's bias, counts in the scale of the others.
    together = [torch.cat([each[name].flatten() for name in exact]) for each in (actual, same, exact)]
    assert_within_rule(*together, what="gradients", whole_model=True)


def test_a_step_of_an_optimizer_lowers_the_loss() -> None:
    model = patched(small_model(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)).train()
    inputs, labels = batch(), torch.tensor([0, 1, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(4):
        torch.manual_seed(3)  # the same dropout each time
        loss = model(**inputs, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
