"""PEFT's LoRA on patched models: trained, saved, loaded, merged; the layers without an adapter stay accelerated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import squeezebert_fast
from tests.engine_helpers import native_runs, needs_native
from tests.works_with.helpers import CLOSE, LIBRARIES, inputs, logits, model_of

pytestmark = needs_native

# A convolution's adapters are grouped as it is, so the rank is a multiple of the groups.
LORA: dict[str, Any] = {"r": 8, "target_modules": ["query", "value"], "lora_dropout": 0.0}
BATCH = {**inputs(), "labels": torch.tensor([0, 1, 1])}


def trained(model: nn.Module) -> tuple[nn.Module, list[float]]:
    """A LoRA model after three steps, and its losses."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(**LORA)).train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = adapted(**BATCH).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return adapted.eval(), losses


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("when", ["before the adapters", "after the adapters"])
def test_a_patched_model_learns_as_an_unpatched_one(when: str, library: str) -> None:
    model = model_of(library)
    expected, losses = trained(copy.deepcopy(model))
    if when == "before the adapters":
        adapted, own_losses = trained(squeezebert_fast.patch(copy.deepcopy(model)))
    else:
        adapted, own_losses = trained(copy.deepcopy(model))
        squeezebert_fast.patch(adapted)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(own_losses, losses, **CLOSE)
    torch.testing.assert_close(logits(adapted, BATCH), logits(expected, BATCH), rtol=1e-3, atol=1e-3)
    assert "lora" in str(squeezebert_fast.explain(adapted)) or "Conv1d" in str(
        squeezebert_fast.explain(adapted)
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_adapters_are_saved_loaded_and_merged(library: str, tmp_path: Path) -> None:
    model = model_of(
        library, q_groups=1, v_groups=1
    )  # PEFT doesn't merge into convolutions of several groups
    adapted, _ = trained(squeezebert_fast.patch(copy.deepcopy(model)))
    expected = logits(adapted, BATCH)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(squeezebert_fast.patch(copy.deepcopy(model)), tmp_path).eval()
    torch.testing.assert_close(logits(loaded, BATCH), expected, **CLOSE)
    merged = loaded.merge_and_unload()
    with native_runs() as runs:
        actual = logits(merged, BATCH)
    assert runs == ["float32"], "without adapters in its way the encoder is one call again"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        logits(squeezebert_fast.unpatch(merged), BATCH), expected, rtol=1e-4, atol=1e-4
    )
