"""A patched model under torch.compile and torch.export: one graph, with the operations in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import UnsupportedError
from squeezebert_fast.backends import cpu
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, tiny_config

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

LIBRARIES = ["ours", "theirs"]
LAYER = 6
"""Operations of a layer: q, k and v, attention, a convolution, a norm, the feed-forward block, a norm."""
CLASSIFIER = "SqueezeBertForSequenceClassification"


def model_of(library: str, name: str = CLASSIFIER, **fields: Any) -> Any:
    ours, theirs = pair(
        name, tiny_config(**{"num_hidden_layers": 1, **fields})
    )  # tracing takes seconds a layer
    return squeezebert_fast.patch(ours if library == "ours" else theirs, backend="cpu")


def batch_of(name: str = CLASSIFIER, **shape: int) -> dict[str, Tensor]:
    inputs = inputs_for(name, tiny_config(), **shape)
    return inputs | labels_for(name, tiny_config(), inputs)


def compiled(model: nn.Module, **options: Any) -> tuple[Any, list[str]]:
    """The model in one graph, and the operations that AOTAutograd is handed."""
    seen: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        seen.extend(str(n.target) for n in graph.graph.nodes if "squeezebert_fast" in str(n.target))
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True, **options), seen


def loss_and_gradients(
    model: Any, owner: nn.Module, batch: dict[str, Tensor], autocast: bool = False
) -> list[Tensor]:
    owner.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in owner.parameters() if p.grad is not None)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("training", [False, True])
def test_forward_and_backward_are_eager_ones(training: bool, library: str) -> None:
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    model = model_of(library, num_hidden_layers=2, **dropout).train(training)
    graph, seen = compiled(model)
    actual = loss_and_gradients(graph, model, batch_of())
    expected = loss_and_gradients(model, model, batch_of())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    # and those of embeddings that drop
    assert len(seen) == 2 * LAYER + (2 if training else 0)
    assert seen.count("squeezebert_fast.dropout.default") == training


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("replaced", [nn.Identity, nn.Tanh])
def test_a_graph_has_an_embeddings_dropout_as_it_was_replaced(
    library: str, replaced: type[nn.Module]
) -> None:
    model = model_of(library).train()
    model.transformer.embeddings.dropout = replaced()
    graph, seen = compiled(model)
    torch.testing.assert_close(graph(**batch_of()).loss, model(**batch_of()).loss, rtol=1e-4, atol=1e-4)
    assert len(seen) == LAYER


@pytest.mark.parametrize("library", LIBRARIES)
def test_inference_and_autocast(library: str) -> None:
    model = model_of(library)
    graph, seen = compiled(model)
    with torch.inference_mode():
        torch.testing.assert_close(
            graph(**batch_of()).logits, model(**batch_of()).logits, rtol=1e-4, atol=1e-4
        )
    graph, seen = compiled(model)
    actual = loss_and_gradients(graph, model, batch_of(), autocast=True)
    expected = loss_and_gradients(model, model, batch_of(), autocast=True)
    assert len(seen) == LAYER
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).norm() <= 0.05 * e.norm() + 1e-2


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in (CLASSIFIER, "SqueezeBertModel")])
def test_every_head_is_one_graph(name: str) -> None:
    model = model_of("ours", name).train()
    graph, seen = compiled(model)
    actual = loss_and_gradients(graph, model, batch_of(name))
    torch.testing.assert_close(actual, loss_and_gradients(model, model, batch_of(name)), rtol=1e-3, atol=1e-4)
    assert len(seen) == LAYER


def test_gradient_checkpointing_in_a_graph() -> None:
    model = model_of("ours", hidden_dropout_prob=0.3).train()
    expected = loss_and_gradients(model, model, batch_of())
    model.gradient_checkpointing_enable()
    graph, _ = compiled(model)
    torch.testing.assert_close(loss_and_gradients(graph, model, batch_of()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_one_graph_for_any_batch(library: str) -> None:
    model = model_of(library).train()
    graph, _ = compiled(model, dynamic=True)
    for batch, tokens in ((3, 7), (2, 5)):
        inputs = batch_of(batch=batch, tokens=tokens)
        torch.testing.assert_close(graph(**inputs).loss, model(**inputs).loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_the_layers_can_not_serve_is_traced_as_it_was_written(library: str) -> None:
    model = model_of(library)
    with torch.no_grad():
        graph, seen = compiled(model)
        scores = graph(**batch_of(), output_attentions=True).attentions
        assert len(scores) == 1
        assert seen == []
        model.transformer.encoder.layers[0].output.conv1d.register_forward_hook(lambda m, i, o: 2 * o)
        graph, seen = compiled(model)
        torch.testing.assert_close(
            graph(**batch_of()).logits, model(**batch_of()).logits, rtol=1e-4, atol=1e-4
        )
        assert seen == []
    graph, seen = compiled(squeezebert_fast.patch(model_of(library), backend="reference"))
    graph(**batch_of()).loss.backward()
    assert seen == []


def test_strict_says_in_a_graph_too_why_a_layer_is_not_served() -> None:
    model = squeezebert_fast.patch(model_of("ours"), strict=True, backend="cpu")
    model.transformer.encoder.layers[0].output.register_forward_hook(lambda *_: None)
    graph, _ = compiled(model)
    with pytest.raises(Exception, match=r"layers\.0: a hook is registered on output") as caught:
        graph(**batch_of())
    chain = caught.value, caught.value.__cause__, caught.value.__context__
    assert any(isinstance(e, UnsupportedError) or "UnsupportedError" in str(e) for e in chain)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_has_the_operations(strict: bool, library: str) -> None:
    model = model_of(library).eval()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(input_ids, attention_mask, token_type_ids).logits

    inputs = inputs_for(CLASSIFIER, tiny_config())
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(
        Logits(), tuple(inputs.values()), dynamic_shapes=({0: batch},) * 3, strict=strict
    )
    assert sum("squeezebert_fast" in str(node.target) for node in exported.graph.nodes) == LAYER
    others = inputs_for(CLASSIFIER, tiny_config(), seed=1, batch=5)
    with torch.no_grad():
        torch.testing.assert_close(
            exported.module()(*others.values()), model(**others).logits, rtol=1e-4, atol=1e-4
        )


def test_unpatching_traces_anew() -> None:
    model = model_of("ours")
    graph, seen = compiled(model)
    expected = graph(**batch_of()).loss
    seen.clear()
    squeezebert_fast.unpatch(model)
    torch.testing.assert_close(graph(**batch_of()).loss, expected, rtol=1e-4, atol=1e-4)
    assert seen == []
