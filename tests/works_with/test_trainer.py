"""transformers' Trainer on transformers' own model, patched: the same losses, checkpoints that load either way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import squeezebert_fast
from tests.works_with.helpers import CLOSE, inputs, logits, model_of

CLASSES = (
    transformers.SqueezeBertForSequenceClassification,
    squeezebert_fast.SqueezeBertForSequenceClassification,
)


def rows() -> list[dict[str, Any]]:
    batch = inputs(batch=8)
    return [{**{name: value[i] for name, value in batch.items()}, "labels": i % 2} for i in range(8)]


def trained(model: nn.Module, folder: Path, **options: Any) -> tuple[Any, list[float]]:
    """The Trainer after eight steps, and the losses it logged."""
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows())
    trainer.train()
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("options", [{}, {"label_smoothing_factor": 0.1}], ids=["plain", "label smoothing"])
def test_a_patched_model_trains_as_an_unpatched_one(options: dict[str, Any], tmp_path: Path) -> None:
    model = model_of("theirs")
    _, expected = trained(copy.deepcopy(model), tmp_path / "plain", **options)
    trainer, losses = trained(squeezebert_fast.patch(copy.deepcopy(model)), tmp_path / "patched", **options)
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    assert losses[-1] < losses[0]
    assert "squeezebert_fast" in type(trainer.model.transformer.encoder).__module__, "still patched"
    trainer.save_model(str(tmp_path / "saved"))
    batch = inputs()
    for cls in CLASSES:
        loaded = cls.from_pretrained(tmp_path / "saved").eval()
        torch.testing.assert_close(logits(loaded, batch), logits(trainer.model.eval(), batch), **CLOSE)
