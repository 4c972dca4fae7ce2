"""accelerate, PEFT, pipelines and dynamic quantization around transformers' BERT and its like, patched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import squeezebert_fast
from tests.engine_helpers import native_runs, needs_native
from tests.family_pairs import inputs_for, labels_for, layers_of, model_of
from tests.works_with.helpers import CLOSE, logits
from tests.works_with.test_pipelines import TASKS, TEXTS, VOCABULARY, close

pytestmark = needs_native

FAMILIES = ("Bert", "Roberta", "DistilBert")
CPU = torch.device("cpu")


def classifier(family: str) -> tuple[Any, dict[str, Tensor]]:
    name = f"{family}ForSequenceClassification"
    return model_of(name), inputs_for(name)


# accelerate

WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "cpu_offload": lambda model, folder: accelerate.cpu_offload(model, CPU),
    "disk_offload": lambda model, folder: accelerate.disk_offload(model, folder, CPU),
    "dispatch_model": lambda model, folder: accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_elsewhere_between_calls(way: str, family: str, tmp_path: Path) -> None:
    model, batch = classifier(family)
    expected = logits(model, batch)
    WAYS[way](squeezebert_fast.patch(model), tmp_path)
    for _ in range(2):
        torch.testing.assert_close(logits(model, batch), expected, **CLOSE)
    assert all("overridden" in row.reason for row in squeezebert_fast.explain(model).rows)
    accelerate.hooks.remove_hook_from_submodules(model)
    with native_runs() as runs:
        torch.testing.assert_close(logits(model, batch), expected, **CLOSE)
    assert runs == ["float32"]
    torch.testing.assert_close(logits(squeezebert_fast.unpatch(model), batch), expected, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_patching_what_is_offloaded(way: str, family: str, tmp_path: Path) -> None:
    model, batch = classifier(family)
    expected = logits(model, batch)
    offloaded = squeezebert_fast.patch(WAYS[way](model, tmp_path))
    torch.testing.assert_close(logits(offloaded, batch), expected, **CLOSE)
    torch.testing.assert_close(logits(squeezebert_fast.unpatch(offloaded), batch), expected, **CLOSE)


# PEFT


def trained(model: nn.Module, family: str, layers: list[int] | None) -> tuple[Any, list[float]]:
    """A LoRA model after three steps, and its losses."""
    torch.manual_seed(0)
    products = ["q_lin", "v_lin"] if family == "DistilBert" else ["query", "value"]
    options: Any = {"r": 4, "target_modules": products, "lora_dropout": 0.0, "layers_to_transform": layers}
    adapted = get_peft_model(model, LoraConfig(**options)).train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    _, batch = classifier(family)
    batch |= labels_for(f"{family}ForSequenceClassification", batch)
    losses = []
    for _ in range(3):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return adapted.eval(), losses


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [None, [1]], ids=["all layers", "one layer"])
def test_adapters_learn_and_merge_as_unpatched(layers: list[int] | None, family: str) -> None:
    model, batch = classifier(family)
    expected, losses = trained(copy.deepcopy(model), family, layers)
    adapted, own_losses = trained(squeezebert_fast.patch(copy.deepcopy(model)), family, layers)
    torch.testing.assert_close(own_losses, losses, **CLOSE)
    torch.testing.assert_close(logits(adapted, batch), logits(expected, batch), rtol=1e-3, atol=1e-3)
    reasons = [row.reason for row in squeezebert_fast.explain(adapted).rows]
    assert sum("lora" in reason for reason in reasons) == (18 if layers is None else 9)
    before = logits(adapted, batch)
    merged = adapted.merge_and_unload()
    with native_runs() as runs:
        torch.testing.assert_close(logits(merged, batch), before, rtol=1e-4, atol=1e-4)
    assert runs == ["float32"]


# Pipelines


@pytest.mark.parametrize("family", ["Bert", "Electra", "DistilBert"])
@pytest.mark.parametrize("task", TASKS)
def test_a_pipeline_answers_as_before_patch(task: str, family: str) -> None:
    name, options = TASKS[task]
    model = model_of(name.replace("SqueezeBert", family))
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(VOCABULARY)})
    if family == "DistilBert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    pipeline: Any = transformers.pipeline(task, model=model, tokenizer=tokenizer, batch_size=3)
    texts = [text for text in TEXTS if task != "fill-mask" or "[MASK]" in text]
    with torch.no_grad():
        expected = pipeline(texts, **options)
        assert pipeline.model is squeezebert_fast.patch(pipeline.model)
        with native_runs() as runs:
            actual = pipeline(texts, **options)
    assert runs
    assert close(actual, expected), f"{actual} instead of {expected}"


# Dynamic quantization


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_products_that_torch_quantizes_are_its_own(family: str) -> None:
    model, batch = classifier(family)
    expected = logits(torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}), batch)
    for when in ("before", "after"):
        fast = copy.deepcopy(model)
        if when == "after":
            squeezebert_fast.patch(fast)
        fast = torch.ao.quantization.quantize_dynamic(fast, {nn.Linear})
        if when == "before":
            squeezebert_fast.patch(fast)
        torch.testing.assert_close(logits(fast, batch), expected, **CLOSE)
        assert all("is a" in row.reason for row in squeezebert_fast.explain(fast).rows)
        assert len(layers_of(fast)) == 2
