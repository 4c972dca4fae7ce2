"""transformers' Trainer trains, evaluates, saves and resumes this package's own models, patched or not."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import modeling
from squeezebert_fast.trainer import Trainer
from tests.loading_helpers import assert_same
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, tiny_config

WITH_HEADS = [name for name in CLASSES if not name.endswith("Model")]
CLASSIFIER = "SqueezeBertForSequenceClassification"
CONFIG = tiny_config(num_labels=2)
every_head = pytest.mark.parametrize("name", WITH_HEADS)
patched_or_not = pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])


@pytest.fixture(autouse=True)
def own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate keeps the precision of a process's first Trainer, transformers 4 even in the environment."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    AcceleratorState._reset_state(reset_partial_state=True)


def rows_for(name: str, count: int = 8) -> list[dict[str, Tensor]]:
    inputs = inputs_for(name, CONFIG, batch=count)
    inputs |= labels_for(name, CONFIG, inputs)
    return [{key: value[i] for key, value in inputs.items()} for i in range(count)]


def trainer_of(
    model: nn.Module, folder: Path, cls: Any = Trainer, name: str = CLASSIFIER, **options: Any
) -> Any:
    settings: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 3,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 7,
    }
    others = {key: options.pop(key) for key in ("compute_metrics", "callbacks") if key in options}
    arguments = transformers.TrainingArguments(str(folder), **{**settings, **options})
    rows = rows_for(name)
    return cls(model, arguments, train_dataset=rows, eval_dataset=rows_for(name, 5), **others)


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def made(name: str, patched: bool = False) -> nn.Module:
    model, _ = pair(name, CONFIG)
    return squeezebert_fast.patch(model) if patched else model


@every_head
@patched_or_not
def test_losses_and_predictions_are_those_of_transformers_model(
    name: str, patched: bool, tmp_path: Path
) -> None:
    theirs = pair(name, CONFIG)[1]
    expected = trainer_of(theirs, tmp_path / "theirs", transformers.Trainer, name)
    expected.train()
    actual = trainer_of(made(name, patched), tmp_path / "ours", transformers.Trainer, name)
    actual.train()
    assert losses_of(actual) == pytest.approx(losses_of(expected), rel=2e-4)
    predicted = actual.predict(rows_for(name, 5))
    reference = expected.predict(rows_for(name, 5))
    assert predicted.metrics["test_loss"] == pytest.approx(reference.metrics["test_loss"], rel=2e-4)
    for ours, other in zip(_flat(predicted.predictions), _flat(reference.predictions), strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(other), rtol=2e-3, atol=2e-3)


def test_a_model_that_gave_up_its_weights_predicts(tmp_path: Path) -> None:
    model = squeezebert_fast.patch(made(CLASSIFIER), precision="int8", keep_original=False)
    rows = rows_for(CLASSIFIER, 5)
    with torch.no_grad():
        expected = model(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}).logits
    predicted = trainer_of(model, tmp_path).predict(rows).predictions
    torch.testing.assert_close(torch.tensor(predicted), expected)


def _flat(predictions: Any) -> tuple[Any, ...]:
    return predictions if isinstance(predictions, tuple) else (predictions,)


@every_head
@patched_or_not
def test_a_checkpoint_is_whole_and_loads_here_and_in_transformers(
    name: str, patched: bool, tmp_path: Path
) -> None:
    model = made(name, patched)
    trainer = trainer_of(model, tmp_path, name=name, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "last"))
    for folder in (tmp_path / "last", tmp_path / "checkpoint-4"):
        loaded = getattr(modeling, name).from_pretrained(folder)
        assert_same(loaded.state_dict(), dict(model.state_dict()))
        theirs, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
        assert_same(theirs.state_dict(), dict(model.state_dict()))
        assert loaded.config.architectures == [name]


@every_head
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"name": name, "save_strategy": "steps", "save_steps": 2}
    whole = made(name)
    trainer_of(whole, tmp_path / "a", **settings).train()
    resumed = trainer_of(made(name), tmp_path / "b", **settings)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert_same(resumed.model.state_dict(), dict(whole.state_dict()))
    assert not [record for record in caplog.records if "missing keys" in record.getMessage()]


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path: Path) -> None:
    scores = iter([0.3, 0.9, 0.1, 0.2])
    model = made(CLASSIFIER)
    trainer = trainer_of(
        model,
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        compute_metrics=lambda predicted: {"score": next(scores)},
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = modeling.SqueezeBertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert_same(model.state_dict(), best.state_dict())


OPTIONS: list[dict[str, Any] | None] = [None, {"use_reentrant": True}]
if transformers.__version__ >= "5":
    OPTIONS.append({"every_n_layers": 2, "offload": True})


@patched_or_not
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradient_checkpointing_gives_the_same_losses(
    patched: bool, options: dict[str, Any] | None, tmp_path: Path
) -> None:
    plain = trainer_of(made(CLASSIFIER, patched), tmp_path / "a")
    plain.train()
    assert not plain.model.is_gradient_checkpointing
    recomputed = trainer_of(
        made(CLASSIFIER, patched),
        tmp_path / "b",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs=options,
    )
    recomputed.train()
    assert recomputed.model.is_activation_checkpointing
    assert losses_of(recomputed) == pytest.approx(losses_of(plain), rel=1e-6)


@patched_or_not
def test_accumulated_steps_are_those_of_the_larger_batch(patched: bool, tmp_path: Path) -> None:
    models = [made(CLASSIFIER, patched), made(CLASSIFIER, patched)]
    for model, batch, steps in zip(models, (4, 2), (1, 2), strict=True):
        trainer_of(
            model,
            tmp_path / str(steps),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
        ).train()
    for expected, actual in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@patched_or_not
@pytest.mark.parametrize(
    "options",
    [{"label_smoothing_factor": 0.1}, {"bf16": True}, {"neftune_noise_alpha": 5.0}],
    ids=str,
)
def test_options_of_training_have_the_effect_that_they_have_on_transformers_model(
    patched: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = pair(CLASSIFIER, CONFIG)[1]
    expected = trainer_of(theirs, tmp_path / "a", transformers.Trainer, **options)
    expected.train()
    actual = trainer_of(made(CLASSIFIER, patched), tmp_path / "b", transformers.Trainer, **options)
    actual.train()
    assert actual.accelerator.mixed_precision == ("bf16" if "bf16" in options else "no")
    assert losses_of(actual) == pytest.approx(losses_of(expected), rel=5e-2 if "bf16" in options else 2e-4)


def test_models_of_others_and_adapters_are_saved_as_transformers_saves_them(tmp_path: Path) -> None:
    ours, theirs = pair(CLASSIFIER, CONFIG)
    trainer_of(theirs, tmp_path).save_model(str(tmp_path / "theirs"))
    assert (tmp_path / "theirs" / "config.json").exists()
    adapted = get_peft_model(ours, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]))
    trainer = trainer_of(adapted, tmp_path, gradient_checkpointing=True)
    before = copy.deepcopy(adapted.state_dict())
    trainer.train()
    changed = {key for key, value in adapted.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all("lora" in key or "modules_to_save" in key for key in changed)
    trainer.save_model(str(tmp_path / "adapter"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "adapter").iterdir()
    }
