"""What Trainer, PEFT, accelerate, pipelines and users ask of a model besides its forward, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.modeling import SqueezeBertForMaskedLM, SqueezeBertModel, SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.encoder import SqueezeBertModel as Encoder
from squeezebert_fast.patching import layers as layer_module
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, tiny_config

every_class = pytest.mark.parametrize("name", CLASSES)


@every_class
def test_questions_about_a_model_have_transformers_answers(name: str) -> None:
    ours, theirs = pair(name, tiny_config())
    for attribute in ("main_input_name", "base_model_prefix", "is_gradient_checkpointing", "dtype", "device"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert ours.can_generate() is theirs.can_generate() is False
    for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
        assert ours.num_parameters(**options) == theirs.num_parameters(**options)
    positions = theirs.base_model.embeddings.position_ids  # a buffer that ours does without
    assert ours.get_memory_footprint() == theirs.get_memory_footprint() - positions.nbytes
    assert ours.get_memory_footprint(return_buffers=False) == theirs.get_memory_footprint(
        return_buffers=False
    )
    assert ours.name_or_path == ""
    assert ours(**ours.dummy_inputs) if "MultipleChoice" not in name else True


def test_parameters_and_buffers_are_found_by_name() -> None:
    model = SqueezeBertModel(tiny_config())
    model.register_buffer("steps", torch.zeros(1))
    assert model.get_parameter_or_buffer("pooler.dense.bias") is model.pooler.dense.bias
    assert model.get_parameter_or_buffer("steps") is model.steps
    with pytest.raises(AttributeError, match="nothing"):
        model.get_parameter_or_buffer("nothing")


def test_tags_are_kept_once_each() -> None:
    model = SqueezeBertModel(tiny_config())
    assert model.model_tags is None
    model.add_model_tags("a")
    model.add_model_tags(["b", "a"])
    assert model.model_tags == ["a", "b"]


@pytest.mark.parametrize("patched", [False, True])
def test_inputs_require_gradients_as_long_as_asked(patched: bool) -> None:
    model, _ = pair("SqueezeBertModel", tiny_config())
    if patched:
        squeezebert_fast.patch(model)
    inputs = inputs_for("SqueezeBertModel", model.config)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    model.enable_input_require_grads()
    assert model(**inputs)[0].requires_grad
    model.disable_input_require_grads()
    model.disable_input_require_grads()
    assert not model(**inputs)[0].requires_grad


@every_class
def test_a_mask_of_heads_is_refused_and_a_number_of_items_changes_nothing(name: str) -> None:
    model, _ = pair(name, tiny_config())
    inputs = inputs_for(name, model.config)
    expected = model(**inputs)[0]
    assert torch.equal(model(**inputs, head_mask=None)[0], expected)
    assert torch.equal(model(**inputs, head_mask=[None, None])[0], expected)
    assert torch.equal(model(**inputs, num_items_in_batch=5)[0], expected)
    with pytest.raises(ArgumentError, match="head_mask"):
        model(**inputs, head_mask=torch.ones(2, 4))
    with pytest.raises(ArgumentError, match="head_mask"):
        model(**inputs, head_mask=[None, torch.ones(4)])
    if not name.endswith("Model"):
        labels = labels_for(name, model.config, inputs)
        assert torch.equal(
            model(**inputs, **labels).loss, model(**inputs, **labels, num_items_in_batch=5).loss
        )
    with pytest.raises(TypeError, match="labelz"):
        model(**inputs, labelz=torch.zeros(3))


# Recomputation


def gradients_and_calls(model: Any, inputs: dict[str, Tensor]) -> tuple[list[Tensor], list[int]]:
    calls: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
        for index, layer in enumerate(model.base_model.encoder.layers)
    ]
    model.zero_grad()
    model.train()(**inputs)[0].sum().backward()
    for hook in hooks:
        hook.remove()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], sorted(calls)


def test_patched_layers_are_recomputed_where_they_were_before(monkeypatch: Any) -> None:
    model: Any = squeezebert_fast.patch(SqueezeBertModel(tiny_config(num_hidden_layers=3)))
    inputs = inputs_for("SqueezeBertModel", model.config)
    ran: list[int] = []
    own = layer_module.run

    def counted(layer: Any, *args: Any) -> Any:
        ran.append(list(model.encoder.layers).index(layer))
        return own(layer, *args)

    monkeypatch.setattr(layer_module, "run", counted)
    for options, expected in (
        ({}, [0, 0, 1, 1, 2, 2]),
        ({"every_n_layers": 2, "offload": True}, [0, 0, 1, 2, 2]),
    ):
        model.activation_checkpointing_enable({"use_reentrant": False}, **options)
        ran.clear()
        model.train()(**inputs)[0].sum().backward()
        assert sorted(ran) == expected


@pytest.mark.parametrize("offload", [False, True])
def test_every_nth_layer_is_recomputed_with_the_same_gradients(offload: bool, monkeypatch: Any) -> None:
    moved: list[bool] = []
    monkeypatch.setattr(torch.autograd.graph.save_on_cpu, "__enter__", lambda self: moved.append(True))
    monkeypatch.setattr(torch.autograd.graph.save_on_cpu, "__exit__", lambda self, *_: None)
    model = SqueezeBertModel(tiny_config(num_hidden_layers=3))
    inputs = inputs_for("SqueezeBertModel", model.config)
    plain, calls = gradients_and_calls(model, inputs)
    assert calls == [0, 1, 2]
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=2, offload=offload)
    assert model.is_activation_checkpointing
    recomputed, calls = gradients_and_calls(model, inputs)
    assert calls == [0, 0, 1, 2, 2]
    assert len(moved) == (2 if offload else 0)
    for expected, actual in zip(plain, recomputed, strict=True):
        assert torch.equal(expected, actual)
    model.activation_checkpointing_disable()
    assert gradients_and_calls(model, inputs)[1] == [0, 1, 2]
    model.gradient_checkpointing_enable()
    assert gradients_and_calls(model, inputs)[1] == [0, 0, 1, 1, 2, 2]


def test_layers_inputs_come_back_from_the_hosts_memory_with_the_same_gradients() -> None:
    model = SqueezeBertModel(tiny_config())
    inputs = inputs_for("SqueezeBertModel", model.config)
    plain, _ = gradients_and_calls(model, inputs)
    model.gradient_checkpointing_enable(offload=True)
    for expected, actual in zip(plain, gradients_and_calls(model, inputs)[0], strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("layers", [0, -1, 1.5])
def test_a_number_of_layers_that_makes_no_sense_is_refused(layers: Any) -> None:
    with pytest.raises(ArgumentError, match="every_n_layers"):
        SqueezeBertModel(tiny_config()).activation_checkpointing_enable(every_n_layers=layers)


# A user's own head


class WithTwoHeads(SqueezeBertPreTrainedModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = Encoder(self.config)
        self.heads = nn.ModuleList(nn.Linear(self.config.hidden_size, 2) for _ in range(2))
        self.post_init()

    def forward(self, **inputs: Any) -> list[Tensor]:
        return [head(self.transformer(**inputs).pooler_output) for head in self.heads]


def test_a_subclass_in_transformers_manner_is_initialised_saved_and_loaded(tmp_path: Path) -> None:
    model = WithTwoHeads(tiny_config(initializer_range=0.0)).eval()
    assert not model.heads[1].weight.any()
    model.heads[1].weight.data.fill_(0.5)
    model.save_pretrained(tmp_path)
    loaded = WithTwoHeads.from_pretrained(tmp_path)
    assert torch.equal(loaded.heads[1].weight, model.heads[1].weight)
    assert SqueezeBertForMaskedLM.from_pretrained(tmp_path).config.architectures == ["WithTwoHeads"]
