"""PEFT's LoRA on this package's own models: what it does to transformers' model, it does to ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.modeling.layers import PointwiseConv1d
from tests.helpers import assert_within_rule
from tests.model_pairs import inputs_for, labels_for, pair, tiny_config

NAME = "SqueezeBertForSequenceClassification"
CONFIG = tiny_config(num_labels=3)  # groups of 4, but for post_attention
TARGETS = {
    "query and value": ["query", "value"],
    "every convolution": ["query", "key", "value", "conv1d"],
    "linear layers": ["dense", "word_embeddings"],
    "all linear": "all-linear",
}
every_target = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)


def with_adapter(model: nn.Module, targets: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(
        task_type="SEQ_CLS", r=8, target_modules=targets, init_lora_weights=False, lora_dropout=0.0, **options
    )
    return get_peft_model(model, config)


def step(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss of a training step, after it."""
    model.train()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    model.eval()
    return loss.detach()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    inputs = inputs_for(NAME, CONFIG)
    return {**inputs, **labels_for(NAME, CONFIG, inputs)}


@every_target
@pytest.mark.parametrize("patched", [False, True])
def test_a_training_step_is_that_of_transformers_model(
    targets: Any, patched: bool, batch: dict[str, Tensor]
) -> None:
    ours, theirs = pair(NAME, CONFIG)
    if patched:
        squeezebert_fast.patch(ours)
    results = []
    for model in (ours, theirs, copy.deepcopy(theirs).double()):
        adapted = with_adapter(model, targets)
        assert any(p.requires_grad and "lora" in name for name, p in adapted.named_parameters())
        loss = step(adapted, batch)
        with torch.no_grad():
            results.append((loss, adapted(**batch).logits, adapted.state_dict()))
    (loss, logits, state), (their_loss, their_logits, their_state), (exact_loss, exact_logits, _) = results
    assert_within_rule(loss, their_loss, exact_loss, "loss")
    assert_within_rule(logits, their_logits, exact_logits, "logits after a step", whole_model=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in their_state.items()}


@every_target
def test_an_adapter_is_saved_and_loaded_again(targets: Any, batch: dict[str, Tensor], tmp_path: Path) -> None:
    ours, theirs = pair(NAME, CONFIG)
    base = copy.deepcopy(ours)
    adapted = with_adapter(ours, targets)
    step(adapted, batch)
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(**batch).logits
        assert torch.equal(PeftModel.from_pretrained(base, tmp_path).eval()(**batch).logits, expected)
        other = PeftModel.from_pretrained(theirs, tmp_path).eval()(**batch).logits
    torch.testing.assert_close(other, expected)


@pytest.mark.parametrize("targets", ["dense", r".*post_attention\.conv1d"])
def test_merging_gives_a_model_of_this_package_with_the_same_results(
    targets: str, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    ours, _ = pair(NAME, CONFIG)
    adapted = with_adapter(ours, [targets] if targets == "dense" else targets)
    step(adapted, batch)
    with torch.no_grad():
        expected = adapted(**batch).logits
        merged = adapted.merge_and_unload()
        assert type(merged) is type(ours)
        torch.testing.assert_close(merged(**batch).logits, expected)
        torch.testing.assert_close(squeezebert_fast.patch(merged)(**batch).logits, expected)
        squeezebert_fast.unpatch(merged).save_pretrained(tmp_path)
        torch.testing.assert_close(type(ours).from_pretrained(tmp_path)(**batch).logits, expected)


def test_a_grouped_convolution_is_not_merged_as_in_transformers_model() -> None:
    for model in pair(NAME, CONFIG):
        with pytest.raises(NotImplementedError, match="groups > 1"):
            with_adapter(model, ["query"]).merge_and_unload()


def test_a_rank_that_groups_do_not_divide_is_refused_as_in_transformers_model() -> None:
    for model in pair(NAME, CONFIG):
        with pytest.raises(ValueError, match="groups=4 and rank 6"):
            get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=6, target_modules=["query"]))


def test_adapters_train_with_gradient_checkpointing(batch: dict[str, Tensor]) -> None:
    losses = []
    for checkpointing in (False, True):
        adapted = with_adapter(pair(NAME, CONFIG)[0], ["query", "value"])
        if checkpointing:
            adapted.gradient_checkpointing_enable()
            adapted.enable_input_require_grads()
        losses.append([step(adapted, batch), step(adapted, batch)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", [PromptTuningConfig, PromptEncoderConfig])
def test_learned_prompts_give_what_they_give_transformers_model(
    kind: Any, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    results = []
    for model in pair(NAME, tiny_config(num_labels=3, max_position_embeddings=40)):
        torch.manual_seed(2)
        adapted = get_peft_model(model, kind(task_type="SEQ_CLS", num_virtual_tokens=4)).eval()
        with torch.no_grad():
            results.append(adapted(**batch).logits)
    torch.testing.assert_close(*results)


def test_a_pointwise_convolution_is_built_like_torchs_and_refuses_what_it_does_not_compute() -> None:
    conv = PointwiseConv1d(8, 4, 1, 1, 0, groups=2, bias=False, dtype=torch.float64)
    assert (conv.weight.shape, conv.bias, conv.weight.dtype) == ((4, 4, 1), None, torch.float64)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = nn.functional.conv1d(x.mT, conv.weight, groups=2).mT
    torch.testing.assert_close(conv(x), expected)
    for options in ({"kernel_size": 3}, {"stride": 2}, {"padding": 1}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            PointwiseConv1d(8, 4, **options)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["query"], init_lora_weights=False, use_dora=True),
        LoHaConfig(target_modules=["query"], init_weights=False),
        LoKrConfig(target_modules=["query"], init_weights=False),
    ],
    ids=lambda config: type(config).__name__,
)
def test_adapters_that_convolve_over_the_middle_axis_are_refused(config: Any, patched: bool) -> None:
    model, _ = pair(NAME, tiny_config(max_position_embeddings=40))
    if patched:
        squeezebert_fast.patch(model)
    ids = torch.ones(2, model.config.hidden_size, dtype=torch.long)  # tokens that could be taken for channels
    with torch.no_grad(), pytest.raises(UnsupportedError, match="last axis"):
        get_peft_model(model, config).eval()(input_ids=ids)


def test_an_adapter_beside_weights_that_were_given_up_is_added_and_not_merged(
    batch: dict[str, Tensor],
) -> None:
    config = LoraConfig(target_modules=["dense"], init_lora_weights=False)
    results, models = [], []
    for keep_original in (True, False):
        model = squeezebert_fast.patch(pair(NAME, CONFIG)[0], keep_original=keep_original)
        torch.manual_seed(1)
        models.append(get_peft_model(model, config).eval())
        with torch.no_grad():
            results.append(models[-1](**batch).logits)
    torch.testing.assert_close(*results)
    with pytest.raises(UnsupportedError, match="keep_original=False"):
        models[-1].merge_and_unload()
