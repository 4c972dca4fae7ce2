"""Patched models that train: gradients of the unpatched one, dropout replayed, and no work for what is frozen."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu, cpu_ops
from tests.engine_helpers import native_runs
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, random_config, tiny_config

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

LIBRARIES = ["ours", "theirs"]
DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
CLASSIFIER = "SqueezeBertForSequenceClassification"


def model_of(library: str, name: str = CLASSIFIER, config: Any = None) -> Any:
    ours, theirs = pair(name, config or tiny_config())
    return (ours if library == "ours" else theirs).train()


def batch_of(name: str = CLASSIFIER, config: Any = None) -> dict[str, Tensor]:
    config = config or tiny_config()
    inputs = inputs_for(name, config)
    return inputs | labels_for(name, config, inputs)


def gradients(
    model: nn.Module, inputs: dict[str, Tensor], autocast: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Of the loss, or the first result's squares, by the parameters' names."""
    model.zero_grad()
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        output = model(**inputs)
    loss = output.loss if output.get("loss") is not None else output[0].square().mean()
    loss.float().backward() if autocast else loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_parity(model: nn.Module, inputs: dict[str, Tensor], autocast: bool = False) -> None:
    """Each gradient's error is at most twice the unpatched model's, on the scale of the largest gradient."""
    exact = gradients(copy.deepcopy(model).double(), inputs)
    same = gradients(model, inputs, autocast)
    actual = gradients(squeezebert_fast.patch(model, backend="cpu", strict=True), inputs, autocast)
    assert actual.keys() == same.keys()
    largest = max(g.abs().max() for g in exact.values())

    def error(gradient: Tensor, name: str) -> float:
        difference = gradient.double() - exact[name]
        return float(difference.square().mean().sqrt() if autocast else difference.abs().max())

    for name, gradient in actual.items():
        assert gradient.dtype == same[name].dtype
        # a parameter whose gradient is rounding alone, as a key's bias, is compared in the scale of the others
        floor = (1e-2 if autocast else 1e-6) * largest
        assert error(gradient, name) <= 2 * error(same[name], name) + floor, name


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CLASSES)
def test_gradients_of_every_model(name: str, library: str) -> None:
    assert_parity(model_of(library, name), batch_of(name))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_unequal_groups_and_any_activation(seed: int, library: str) -> None:
    config = random_config(seed)
    assert_parity(model_of(library, "SqueezeBertModel", config), batch_of("SqueezeBertModel", config))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["SqueezeBertForMaskedLM", CLASSIFIER])
def test_gradients_under_autocast(name: str, library: str) -> None:
    assert_parity(model_of(library, name), batch_of(name), autocast=True)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bfloat16_model_trains(library: str) -> None:
    model = model_of(library, "SqueezeBertModel").bfloat16()
    inputs = batch_of("SqueezeBertModel")
    exact = gradients(copy.deepcopy(model).double(), inputs)
    same = gradients(model, inputs)
    actual = gradients(squeezebert_fast.patch(model), inputs)

    def error(found: dict[str, Tensor]) -> Tensor:
        return torch.stack([(found[n].double() - g).norm() for n, g in exact.items()]).norm()

    assert {g.dtype for g in actual.values()} == {torch.bfloat16}
    assert error(actual) <= 2 * error(same)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_operation_of_a_training_step_is_the_kernels(
    library: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    model = squeezebert_fast.patch(model_of(library, config=tiny_config(**DROPOUT)))

    def counted(name: str, own: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(name)
            return own(*args)

        return call

    names = (
        "grouped_pointwise_conv",
        "qkv_projection",
        "grouped_mlp",
        "attention",
        "add_layer_norm",
        "dropout",
    )
    for name in names:
        for kernel in (name, name + "_backward"):
            monkeypatch.setattr(cpu_ops, kernel, counted(kernel, getattr(cpu_ops, kernel)))
    gradients(model, batch_of(), autocast)
    layers = len(model.transformer.encoder.layers)
    assert calls.count("attention") == calls.count("attention_backward") == layers
    assert calls.count("grouped_mlp_backward") == layers
    assert calls.count("qkv_projection") == calls.count("qkv_projection_backward") == layers
    assert calls.count("grouped_pointwise_conv_backward") == layers
    # and that of the embeddings
    assert calls.count("add_layer_norm") == calls.count("add_layer_norm_backward") == 2 * layers + 1
    assert calls.count("dropout_backward") == 1
    assert calls.count("dropout") == 2  # its backward is itself


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_replays_dropout_and_keeps_less(reentrant: bool, autocast: bool) -> None:
    model = squeezebert_fast.patch(model_of("ours", config=tiny_config(**DROPOUT)), strict=True)
    kept: list[Tensor] = []

    def step() -> dict[str, Tensor]:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            return gradients(model, batch_of(), autocast)

    expected = step()
    usual = len(kept)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    actual = step()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)
    assert reentrant or len(kept) < usual
    again = gradients(model, batch_of(), autocast, seed=1)
    assert any(not torch.equal(again[name], gradient) for name, gradient in actual.items())


@pytest.mark.parametrize("library", LIBRARIES)
def test_dropout_varies_the_loss_around_what_it_is_without(library: str) -> None:
    model = squeezebert_fast.patch(model_of(library, config=tiny_config(**DROPOUT)))
    torch.manual_seed(0)
    with torch.no_grad():
        losses = torch.stack([model(**batch_of()).loss for _ in range(200)])
        unpatched = squeezebert_fast.unpatch(model)
        expected = torch.stack([unpatched(**batch_of()).loss for _ in range(200)])
    assert losses.std() > 0.01
    error = (losses.var() / 200 + expected.var() / 200).sqrt()
    assert (losses.mean() - expected.mean()).abs() < 4 * error
    assert 0.7 < losses.std() / expected.std() < 1.4


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frozen_encoder_runs_on_the_engine_and_the_head_trains(library: str) -> None:
    model = model_of(library)
    model.transformer.requires_grad_(False)
    model.transformer.pooler.requires_grad_(True)
    expected = gradients(model, batch_of())
    squeezebert_fast.patch(model)
    with native_runs() as runs:
        actual = gradients(model, batch_of())
    assert runs == ["float32"]
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_lower_layers_that_are_frozen_keep_nothing(library: str) -> None:
    config = tiny_config(num_hidden_layers=3, **DROPOUT)
    model = squeezebert_fast.patch(model_of(library, config=config))
    kept: list[int] = []
    for frozen in (0, 2):
        model.transformer.embeddings.requires_grad_(frozen == 0)
        for layer in model.transformer.encoder.layers[:frozen]:
            layer.requires_grad_(False)
        count: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, count=count: count.append(t) or t, lambda t: t
        ):
            found = gradients(model, batch_of())
        kept.append(len(count))
        assert any(".layers.2." in name for name in found)
        assert frozen == 0 or not any(".layers.0." in name for name in found)
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_embeddings_train_with_the_padding_row_left_alone(library: str) -> None:
    config = tiny_config(pad_token_id=7)
    model = model_of(library, "SqueezeBertModel", config)
    inputs = batch_of("SqueezeBertModel", config)
    inputs["input_ids"][:, 1] = 7
    assert_parity(model, inputs)
    gradient = model.embeddings.word_embeddings.weight.grad
    assert not gradient[7].any()
    assert gradient.any()
    for bad in ("input_ids", "token_type_ids", "position_ids"):
        wrong = inputs | {bad: torch.full_like(inputs["input_ids"], 1000)}
        errors = []
        for change in (squeezebert_fast.patch, squeezebert_fast.unpatch):
            with pytest.raises(Exception) as caught:  # noqa: PT011 (the model's)
                change(model)(**wrong)
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_embeddings_dropout_is_that_of_its_module(library: str, p: float) -> None:
    model = model_of(library, "SqueezeBertModel")
    embeddings = squeezebert_fast.patch(model).embeddings
    ids = batch_of("SqueezeBertModel")["input_ids"]
    embeddings.dropout.p = p
    y = embeddings(ids)
    kept = embeddings.dropout.eval() and embeddings(ids)
    dropped = y == 0
    torch.testing.assert_close(y, torch.where(dropped, 0.0, kept / (1 - p) if p < 1 else kept))
    assert abs(float(dropped.float().mean()) - p) < 0.1
    embeddings.dropout.train()
    torch.manual_seed(3)
    first = embeddings(ids)
    torch.manual_seed(3)
    with torch.no_grad():
        torch.testing.assert_close(embeddings(ids), first.detach())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("how", ["a hook", "a class", "a forward", "a hook on every module"])
def test_the_embeddings_dropout_may_be_watched_or_replaced(
    library: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = squeezebert_fast.patch(model_of(library, "SqueezeBertModel", tiny_config(**DROPOUT)))
    embeddings, seen = model.embeddings, []
    monkeypatch.setattr(cpu_ops, "dropout", lambda *_: pytest.fail("the module was passed over"))

    def watch(module: nn.Module, *_: Any) -> None:
        seen.append(module)

    class Watched(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self)
            return super().forward(x)

    handle = None
    if how == "a hook":
        handle = embeddings.dropout.register_forward_hook(watch)
    elif how == "a class":
        embeddings.dropout = Watched(0.2)
    elif how == "a forward":
        embeddings.dropout.forward = Watched.forward.__get__(Watched(0.2))
    else:
        handle = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        embeddings(batch_of("SqueezeBertModel")["input_ids"])
    finally:
        if handle is not None:
            handle.remove()
    assert any(isinstance(module, nn.Dropout) for module in seen)


@pytest.mark.parametrize("library", LIBRARIES)
def test_sparse_gradients_are_pytorchs(library: str) -> None:
    model = model_of(library, "SqueezeBertModel")
    model.embeddings.word_embeddings.sparse = True
    squeezebert_fast.patch(model)
    found = gradients(model, batch_of("SqueezeBertModel"))
    assert found["embeddings.word_embeddings.weight"].is_sparse


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_optimizer_follows_the_unpatched_models_path_under_autocast_and_checkpointing(
    library: str,
) -> None:
    """What is packed of the weights, or kept of a step, is never stale."""
    model = model_of(library)
    plain = copy.deepcopy(model)
    squeezebert_fast.patch(model)
    if library == "ours":
        model.gradient_checkpointing_enable()
    losses = []
    for one in (model, plain):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
        path = []
        for _ in range(25):
            with torch.autocast("cpu", torch.bfloat16):
                loss = one(**batch_of()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path.append(loss.item())
        losses.append(path)
    assert losses[0][-1] < 0.5 * losses[0][0]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0.1, atol=0.03)
