"""Training patched models of transformers' families: gradients, dropout, autocast, checkpointing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from tests.engine_helpers import native_runs
from tests.family_pairs import CASES, attention_of, encoder_of, inputs_for, labels_for, layers_of, model_of

KINDS = [
    case
    for case in CASES
    if case[0] in ("BertForSequenceClassification", "RobertaForMaskedLM", "DistilBertForQuestionAnswering")
]


def gradients(model: Any, inputs: dict[str, Any], autocast: bool = False) -> dict[str, Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model: Any, inputs: dict[str, Any], patched: Any) -> None:
    """The rule for the gradient of each parameter, all in one scale: a key's bias has none but rounding."""
    exact, same = gradients(copy.deepcopy(model).double(), inputs), gradients(model, inputs)
    actual = gradients(patched, inputs)
    assert actual.keys() == same.keys()
    largest = max(float(g.abs().max()) for g in exact.values())
    for name, gradient in actual.items():
        error, own = ((g[name].double() - exact[name]).square().mean().sqrt() for g in (actual, same))
        assert error <= 2 * own + 1e-6 * largest, name
        assert gradient.dtype == torch.float32


def with_labels(name: str, seed: int = 0) -> dict[str, Any]:
    inputs = inputs_for(name, seed)
    return inputs | labels_for(name, inputs, seed)


@pytest.mark.parametrize(("name", "attention"), [case for case in CASES if not case[0].endswith("Model")])
def test_gradients_of_every_head(name: str, attention: str) -> None:
    model = model_of(name, attention).train()
    patched = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu", strict=True)
    assert_same_gradients(model, with_labels(name), patched)


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("before", [False, True], ids=["after patch", "before patch"])
def test_gradient_checkpointing(before: bool, reentrant: bool, name: str, attention: str) -> None:
    model = model_of(name, attention).train()
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    patched = copy.deepcopy(model)
    if before:
        patched.gradient_checkpointing_enable(**options)
    squeezebert_fast.patch(patched, backend="cpu")
    if not before:
        patched.gradient_checkpointing_enable(**options)
    calls: list[int] = []
    for owner in patched.modules():
        function = owner.__dict__.get("_gradient_checkpointing_func")
        if function is not None:
            owner._gradient_checkpointing_func = lambda *a, f=function: calls.append(1) or f(*a)
    assert_same_gradients(model, with_labels(name), patched)
    assert len(calls) == 2
    layers_of(patched)[1].register_forward_hook(lambda *_: None)
    calls.clear()
    assert_same_gradients(model, with_labels(name), patched)
    assert len(calls) == 2
    patched.gradient_checkpointing_disable()
    assert_same_gradients(model, with_labels(name), patched)
    assert len(calls) == 2


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_autocast(name: str, attention: str) -> None:
    model = model_of(name, attention).train()
    patched = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
    inputs = with_labels(name)
    exact = gradients(copy.deepcopy(model).double(), inputs)
    same, actual = gradients(model, inputs, autocast=True), gradients(patched, inputs, autocast=True)
    assert {name: g.dtype for name, g in actual.items()} == {name: g.dtype for name, g in same.items()}
    errors = [sum(float((g[n] - exact[n]).square().sum()) for n in exact) for g in (actual, same)]
    assert 0 < errors[0] <= 4 * errors[1]


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_frozen_layers_and_embeddings(name: str, attention: str) -> None:
    model = model_of(name, attention).train()
    for frozen in (model.base_model.embeddings, *layers_of(model)):
        frozen.requires_grad_(False)
        patched = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
        assert_same_gradients(model, with_labels(name), patched)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_gradients_of_given_embeddings(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), with_labels(name)
    del inputs["input_ids"]
    results = []
    for patched in (False, True):
        if patched:
            squeezebert_fast.patch(model, backend="cpu")
        embeds = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
        model(**inputs, inputs_embeds=embeds).loss.backward()
        results.append(embeds.grad)
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)


# Dropout


def dropouts_of(model: Any) -> dict[str, nn.Dropout]:
    return {name: m for name, m in encoder_of(model).layer[1].named_modules() if isinstance(m, nn.Dropout)}


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_each_dropout_drops_what_it_drops_unpatched(name: str, attention: str) -> None:
    """All or nothing, so that nothing is random."""
    model, inputs = model_of(name, attention).train(), inputs_for(name)
    plain = copy.deepcopy(model)
    squeezebert_fast.patch(model, backend="cpu")
    nothing = model(**inputs)[0]
    changes = 0
    for path in dropouts_of(model):
        for each in (model, plain):
            dropouts_of(each)[path].p = 1.0
        actual, expected = model(**inputs)[0], plain(**inputs)[0]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        changes += not torch.allclose(actual, nothing, atol=1e-4)
        for each in (model, plain):
            dropouts_of(each)[path].p = 0.0
    assert changes >= len(dropouts_of(model)) - 1  # transformers 4 has sdpa's probability elsewhere
    torch.testing.assert_close(model(**inputs)[0], nothing)


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("mode", ["only dropouts train", "all but dropouts train", "only attention trains"])
def test_whose_training_mode_counts_for_attention(mode: str, name: str, attention: str) -> None:
    """The library's attention asks itself, or its dropout, by version; other dropouts ask themselves."""
    model = model_of(name, attention, attention_probs_dropout_prob=0.999999).eval()
    for layer in layers_of(model):
        if mode == "all but dropouts train":
            layer.train()
        elif mode == "only attention trains":
            attention_of(layer).training = True
        for module in layer.modules():
            if isinstance(module, nn.Dropout):
                module.training = mode == "only dropouts train"
    inputs = inputs_for(name)
    expected = model(**inputs)[0]
    squeezebert_fast.patch(model, backend="cpu")
    torch.testing.assert_close(model(**inputs)[0], expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_dropout_is_drawn_by_the_seed_with_the_mean_of_none(name: str, attention: str) -> None:
    fields = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    model = model_of(name, attention, **fields)
    inputs = {key: value[:1].expand(64, -1) for key, value in inputs_for(name).items()}

    def mean(model: Any) -> Tensor:
        torch.manual_seed(5)
        with torch.no_grad():
            return torch.stack([model(**inputs)[0].mean(0) for _ in range(8)]).mean(0)

    still = mean(model)
    expected = mean(model.train())
    squeezebert_fast.patch(model, backend="cpu")
    with native_runs() as runs:
        actual, again = mean(model), mean(model)
    assert runs == []
    assert torch.equal(actual, again)
    moved, own = (float((t - still).square().mean().sqrt()) for t in (actual, expected))
    apart = float((actual - expected).square().mean().sqrt())
    assert 0 < apart < 0.25 * float(still.square().mean().sqrt())
    assert moved < 2 * own + 0.05 * float(still.square().mean().sqrt())
    torch.manual_seed(6)
    assert not torch.equal(model(**inputs)[0], model(**inputs)[0])
    torch.testing.assert_close(mean(model.eval()), still, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_an_optimizer_takes_the_same_path(name: str, attention: str) -> None:
    model = model_of(name, attention).train()
    other = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
    losses: list[list[float]] = []
    for trained in (model, other):
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
        losses.append([])
        for step in range(4):
            loss = trained(**with_labels(name, step % 2)).loss
            losses[-1].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[0][2] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
