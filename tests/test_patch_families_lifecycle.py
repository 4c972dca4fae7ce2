"""Patched models of transformers' families load, save, copy, compile and unpatch as unpatched ones do."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.patching.holders import is_ours
from tests.engine_helpers import native_runs, needs_native
from tests.family_pairs import (
    CASES,
    CLASSES,
    encoder_of,
    flat,
    inputs_for,
    labels_for,
    layers_of,
    model_of,
    query_of,
)
from tests.slow import slow

KINDS = [case for case in CASES if case[0] in ("BertModel", "RobertaModel", "DistilBertModel")]
"""Families whose code differs in more than names, by kind of attention."""
GRAPHS = slow(KINDS, but=[("BertModel", "sdpa"), ("DistilBertModel", "eager")])
"""The same for what compiles them, which takes seconds each."""
MODELS = [case for case in CASES if case[0].endswith("Model")]


def outputs(model: Any, inputs: dict[str, Any], **options: Any) -> list[Tensor]:
    with torch.no_grad():
        return flat(model(**inputs, **options))


def close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-5, atol=2e-5)


def equal(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def is_patched(model: nn.Module) -> bool:
    return any("_squeezebert_fast_settings" in m.__dict__ for m in model.modules())


def anatomy(model: nn.Module) -> list[Any]:
    """Everything that unpatch must leave as it was, by identity where there is one."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(name, id(m), type(m), sorted(m.__dict__)) for name, m in model.named_modules()],
        [(name, [list(m.__dict__[kind].values()) for kind in hooks]) for name, m in model.named_modules()],
        [(name, id(p), p._version, p.data_ptr()) for name, p in model.named_parameters()],
        [(name, id(b)) for name, b in model.named_buffers()],
        [(name, t.data_ptr()) for name, t in model.state_dict().items()],
        repr(model),
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_unpatch_leaves_no_trace(name: str) -> None:
    model, inputs = model_of(name), inputs_for(name)
    expected = outputs(model, inputs, output_hidden_states=True)
    before = anatomy(model)
    assert squeezebert_fast.patch(model) is model
    outputs(model, inputs, output_hidden_states=True)
    model(**inputs, **labels_for(name, inputs))
    _, hooks, *values = anatomy(model)[:5]
    for _, of_module in hooks:  # one of ours is at the model around an encoder
        of_module[:] = [[hook for hook in kind if not is_ours(hook)] for kind in of_module]
    assert [hooks, *values] == before[1:5]
    assert squeezebert_fast.unpatch(model) is model
    assert anatomy(model) == before
    assert equal(outputs(model, inputs, output_hidden_states=True), expected)


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_explain_has_a_row_for_each_operation(name: str, attention: str) -> None:
    model = model_of(name, attention)
    assert {row.reason for row in squeezebert_fast.explain(model).rows} == {"the model is not patched"}
    rows = squeezebert_fast.explain(squeezebert_fast.patch(model, backend="cpu", precision="int8")).rows
    assert len(rows) == 18
    place = "transformer" if "Distil" in name else "encoder"
    assert {row.layer for row in rows} == {f"{place}.layer.0", f"{place}.layer.1"}
    assert {(row.backend, row.precision) for row in rows} == {("cpu", "int8")}
    assert str(squeezebert_fast.explain(model))
    assert {row.backend for row in squeezebert_fast.explain(model, "reference").rows} == {"reference"}


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_copies_and_pickles_are_patched_and_their_own(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    original = type(encoder_of(model))
    squeezebert_fast.patch(model, backend="cpu")
    outputs(model, inputs)
    expected = outputs(model, inputs)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):  # noqa: S301
        assert is_patched(other)
        with native_runs() as runs:
            assert equal(outputs(other, inputs), expected)
        assert runs == ["float32"]
        with torch.no_grad():
            query_of(layers_of(other)[0]).weight.mul_(2)
        assert not equal(outputs(other, inputs), expected)
        assert type(encoder_of(squeezebert_fast.unpatch(other))) is original
    assert equal(outputs(model, inputs), expected)
    outputs(model, inputs, output_hidden_states=True)
    states = outputs(copy.deepcopy(model), inputs, output_hidden_states=True)
    assert equal(states, outputs(model, inputs, output_hidden_states=True))


@pytest.mark.parametrize("name", [name for name in CLASSES if name.endswith(("Model", "MaskedLM"))])
def test_a_patched_model_saves_as_an_unpatched_one(name: str, tmp_path: Path) -> None:
    model, inputs = squeezebert_fast.patch(model_of(name)), inputs_for(name)
    expected = outputs(model, inputs, output_hidden_states=True)
    plain = squeezebert_fast.unpatch(copy.deepcopy(model))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.save_pretrained(tmp_path / "patched")
    plain.save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "patched" / "config.json").read_text())["architectures"] == [name]
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "patched" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    loaded = getattr(transformers, name).from_pretrained(tmp_path / "patched").eval()
    assert not is_patched(loaded)
    close(outputs(loaded, inputs, output_hidden_states=True), expected)
    auto = transformers.AutoModel.from_pretrained(tmp_path / "patched").eval()
    with native_runs() as runs:
        outputs(squeezebert_fast.patch(auto, backend="cpu"), inputs)
    assert runs == ["float32"]


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM", "ElectraForMaskedLM"]
)
def test_words_tied_to_a_decoder_stay_tied_and_can_be_more(name: str) -> None:
    model, inputs = squeezebert_fast.patch(model_of(name), backend="cpu"), inputs_for(name)
    expected = outputs(model, inputs)
    words = model.get_input_embeddings().weight
    assert words is model.get_output_embeddings().weight
    with torch.no_grad():
        words.mul_(1.5)
    close(outputs(model, inputs), outputs(squeezebert_fast.unpatch(copy.deepcopy(model)), inputs))
    with torch.no_grad():
        words.div_(1.5)
    model.resize_token_embeddings(70)
    actual = outputs(model, inputs)
    close([a[..., :61] for a in actual], expected)
    close(actual, outputs(squeezebert_fast.unpatch(copy.deepcopy(model)), inputs))


@pytest.mark.parametrize("name", CLASSES)
def test_the_wrong_inputs_raise_the_same_errors(name: str) -> None:
    model = model_of(name)
    wrong: list[dict[str, Any]] = [
        {},
        {"input_ids": torch.zeros(1, 99, dtype=torch.long)},
        {"input_ids": torch.full((1, 3), 99)},
        {"input_ids": torch.ones(1, 3, dtype=torch.long), "inputs_embeds": torch.zeros(1, 3, 24)},
        {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 4)},
    ]

    def errors() -> list[Any]:
        found: list[Any] = []
        for inputs in wrong:
            try:
                outputs(model, inputs)
                found.append(None)
            except Exception as error:
                found.append((type(error), str(error)))
        return found

    expected = errors()
    squeezebert_fast.patch(model, backend="cpu")
    for actual, wanted in zip(errors(), expected, strict=True):
        assert (actual is None) == (wanted is None)
        assert actual is None or actual[0] is wanted[0]


# Graphs


@pytest.mark.parametrize(("name", "attention"), GRAPHS)
def test_compilation_before_and_after_patching(name: str, attention: str) -> None:
    torch.compiler.reset()
    model, inputs = model_of(name, attention, num_hidden_layers=1), inputs_for(name)
    expected = outputs(model, inputs)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(outputs(compiled, inputs), expected)
    squeezebert_fast.patch(compiled, backend="cpu")
    assert is_patched(model)
    close(outputs(compiled, inputs), expected)
    close(outputs(model, inputs), expected)
    squeezebert_fast.unpatch(model)
    assert equal(outputs(model, inputs), expected)
    torch.compiler.reset()


FIRST_CALL = """
import torch, squeezebert_fast
from tests.family_pairs import inputs_for, model_of
model, inputs = model_of("BertModel"), inputs_for("BertModel")
with torch.no_grad():
    expected = model(**inputs)[0]
    compiled = torch.compile(squeezebert_fast.patch(model), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs)[0], expected, rtol=2e-5, atol=2e-5)
"""


def test_the_first_call_of_a_process_may_be_a_compiled_one() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "attention"), GRAPHS)
def test_a_graph_has_our_operations_and_the_gradients(name: str, attention: str) -> None:
    torch.compiler.reset()
    model, inputs = model_of(name, attention, num_hidden_layers=1), inputs_for(name)
    graphs: list[str] = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(str(module.graph))
        return module.forward

    results = []
    for patched in (False, True):
        if patched:
            squeezebert_fast.patch(model, backend="cpu")
        compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
        model.zero_grad()
        result = compiled(**inputs)[0]
        result.square().sum().backward()
        results.append([result, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        torch.compiler.reset()
    assert "squeezebert_fast" not in graphs[0]
    assert "squeezebert_fast.attention" in graphs[1]
    assert len(graphs) == 2
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(
            actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-5
        )


@pytest.mark.parametrize(("name", "attention"), GRAPHS)
@pytest.mark.parametrize("mask", ["padding", "empty", "4-D"])
def test_masks_in_a_graph(mask: str, name: str, attention: str) -> None:
    torch.compiler.reset()
    model, inputs = model_of(name, attention, num_hidden_layers=1), inputs_for(name)
    if mask == "empty":
        inputs["attention_mask"][1] = 0
    if mask == "4-D":
        inputs["attention_mask"] = torch.where(torch.rand(3, 1, 7, 7) > 0.3, 0.0, -10000.0)
    try:
        expected = outputs(model, inputs)
    except (ValueError, RuntimeError):
        pytest.skip("transformers refuses it")
    compiled = torch.compile(squeezebert_fast.patch(model, backend="cpu"), backend="aot_eager")
    close(outputs(compiled, inputs), expected)
    torch.compiler.reset()


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_a_patched_model_exports_for_any_shape(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention, num_hidden_layers=1), inputs_for(name)
    shapes = {
        key: {0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("tokens", min=2, max=19)}
        for key in inputs
    }
    other = inputs_for(name, 1, batch=2, tokens=5)
    expected = outputs(model, other)
    squeezebert_fast.patch(model, backend="cpu")
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    close(outputs(exported.module(), other), expected)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_a_jit_trace_of_a_patched_model_is_whole(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention, return_dict=False, num_hidden_layers=1), inputs_for(name)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    others = (ids + 1) % 61
    expected = outputs(model, {"input_ids": others, "attention_mask": mask})
    squeezebert_fast.patch(model, backend="cpu")
    with torch.no_grad():
        traced = torch.jit.trace(model, (ids, mask), check_trace=False)
        close(flat(traced(others, mask)), expected)


# A model in a model


class BiEncoder(nn.Module):
    """Two towers of different families, and one of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.document = model_of("BertModel"), model_of("DistilBertModel")
        self.again = self.query

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(**inputs)[0] for model in (self.query, self.document, self.again))


@needs_native
def test_encoders_of_several_families_within_a_larger_module() -> None:
    model, inputs = BiEncoder().eval(), inputs_for("DistilBertModel")
    expected = outputs(model, inputs)
    before = anatomy(model)
    squeezebert_fast.patch(model, backend="cpu", strict=True)
    with native_runs() as runs:
        close(outputs(model, inputs), expected)
    assert len(runs) == 3
    names = {row.layer.rpartition(".layer.")[0] for row in squeezebert_fast.explain(model).rows}
    assert names == {"query.encoder", "document.transformer"}
    assert anatomy(squeezebert_fast.unpatch(model)) == before


def test_a_model_of_another_kind_is_refused_with_the_names_that_are_known() -> None:
    model = transformers.GPT2Model(transformers.GPT2Config(vocab_size=11, n_embd=8, n_head=2, n_layer=1))
    with pytest.raises(ArgumentError, match=r"BertEncoder.*RobertaEncoder.*Transformer"):
        squeezebert_fast.patch(model)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_strict_says_what_a_call_can_not_have(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    squeezebert_fast.patch(model, backend="cpu", strict=True)
    with pytest.raises(UnsupportedError, match=r"output_attentions asks for the scores.*\(strict\)"):
        outputs(model, inputs, output_attentions=True)
    outputs(model, inputs)
