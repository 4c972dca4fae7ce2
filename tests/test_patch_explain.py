"""`explain` is a table of what runs where, and why."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.patching.explain import PARTS, Explanation, Row
from tests.model_pairs import pair, tiny_config

LIBRARIES = ["ours", "theirs"]
needs_native = pytest.mark.skipif(
    not cpu.instruction_sets() or cpu.instruction_sets() == ["scalar"], reason="no kernel that auto chooses"
)


def model_of(library: str, layers: int = 2, **fields: Any) -> nn.Module:
    ours, theirs = pair("SqueezeBertModel", tiny_config(num_hidden_layers=layers, **fields))
    return ours if library == "ours" else theirs


def table(model: nn.Module, backend: str | None = None) -> list[tuple[str, str, str, str]]:
    """(part, backend, precision, reason) of the first layer."""
    rows = squeezebert_fast.explain(model, backend=backend).rows
    return [(r.part, r.backend, r.precision, r.reason) for r in rows if r.layer.endswith("layers.0")]


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_unpatched_model_runs_its_own_modules(library: str) -> None:
    model = model_of(library)
    expected = [(part, "reference", "float32", "the model is not patched") for part, _ in PARTS]
    assert table(model) == expected
    assert [r.layer for r in squeezebert_fast.explain(model).rows] == 9 * ["encoder.layers.0"] + 9 * [
        "encoder.layers.1"
    ]
    assert squeezebert_fast.explain(model.encoder).rows[0].layer == "encoder.layers.0"
    squeezebert_fast.patch(model)
    squeezebert_fast.unpatch(model)
    assert table(model) == expected


@needs_native
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_patched_model_runs_its_layers_in_one_call(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "products_by_parts", lambda form: 0)  # see test_matmul_precision.py
    model = squeezebert_fast.patch(model_of(library))
    build = cpu.instruction_set()
    expected = [
        (part, "cpu", "float32", f"one call for all layers in inference, {build} build") for part, _ in PARTS
    ]
    assert table(model) == expected
    assert table(squeezebert_fast.unpatch(model), backend="cpu") == expected
    for precision in ("bfloat16", "int8"):
        with cpu.use_instruction_set("scalar"):
            rows = table(squeezebert_fast.patch(model, precision=precision, backend="cpu"))
        assert {row[2] for row in rows} == {precision}
        assert all(f"no instruction for {precision}" in row[3] for row in rows)


@needs_native
@pytest.mark.parametrize("library", LIBRARIES)
def test_layers_that_can_not_run_together_run_their_operations(library: str) -> None:
    model = squeezebert_fast.patch(model_of(library, hidden_act="mish"))
    assert table(model) == [(part, "cpu", "float32", "the first choice here") for part, _ in PARTS]
    named = table(model, backend="cpu")
    assert named == [(part, "cpu", "float32", "chosen by name") for part, _ in PARTS]


def test_a_backend_that_can_not_serve_says_so() -> None:
    rows = table(squeezebert_fast.patch(model_of("ours"), backend="triton"))
    assert {row[1:] for row in rows} == {
        ("reference", "float32", "triton: the tensors are on cpu, not on a CUDA GPU")
    }


def test_the_reference_by_name() -> None:
    model = squeezebert_fast.patch(model_of("ours"), backend="reference")
    assert {row[1:] for row in table(model)} == {("reference", "float32", "chosen by name")}


@needs_native
def test_a_dtype_or_device_that_the_kernel_lacks_is_named() -> None:
    model = squeezebert_fast.patch(model_of("ours"))
    reason = "cpu: the dtype is torch.float16, the kernels take torch.float32 and torch.bfloat16"
    assert table(model.half())[0] == ("query", "reference", "float16", reason)
    assert table(model.bfloat16())[0] == ("query", "cpu", "bfloat16", "the first choice here")
    model.float()
    model.encoder.layers[0].intermediate.double()
    precisions = {part: precision for part, _, precision, _ in table(model)}
    assert precisions.pop("intermediate") == "float64"
    assert set(precisions.values()) == {"float32"}
    assert "attention: a tensor has no memory of its own" in table(model.to("meta"))[0][3]


@needs_native
def test_layers_that_differ_are_drawn_apart_and_equal_ones_once() -> None:
    model = squeezebert_fast.patch(model_of("ours", layers=5))
    assert str(squeezebert_fast.explain(model)).count("encoder.layers") == 1
    model.encoder.layers[2].output.register_forward_hook(lambda *_: None)
    text = str(squeezebert_fast.explain(model))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "part", "operation", "backend", "precision", "reason"]
    starts = [line.split("  ")[0] for line in lines if line.startswith("encoder.layers")]
    assert starts == ["encoder.layers.0 to 1", "encoder.layers.2", "encoder.layers.3 to 4"]
    assert "a hook is registered on output, a ConvDropoutLayerNorm" in " ".join(text.split())


def lines_of(rows: list[Row]) -> list[list[str]]:
    """The cells of the table that is drawn, without its head."""
    return [re.split(r"\s{2,}", line.strip()) for line in str(Explanation(tuple(rows))).splitlines()[1:]]


def test_parts_that_have_one_answer_are_drawn_once() -> None:
    model = squeezebert_fast.patch(model_of("ours", layers=3), backend="reference")
    (line,) = lines_of(list(squeezebert_fast.explain(model).rows))
    expected = ["encoder.layers.0 to 2", "query to output_norm", "3 operations"]
    assert line == [*expected, "reference", "float32", "chosen by name"]


def test_parts_that_differ_in_anything_are_drawn_apart() -> None:
    fields = {"layer": "0", "operation": "conv", "backend": "cpu", "precision": "int8", "reason": "r"}
    others = [{"backend": "reference"}, {"precision": "float32"}, {"reason": "s"}]
    rows = [Row(**{"part": "query", **fields}), Row(**{"part": "key", **fields})]
    rows += [Row(**{"part": str(number), **fields, **other}) for number, other in enumerate(others)]
    rows += [Row(**{"part": "last", **fields})]
    assert lines_of(rows) == [
        ["0", "query to key", "conv", "cpu", "int8", "r"],
        ["0", "conv", "reference", "int8", "r"],
        ["1", "conv", "cpu", "float32", "r"],
        ["2", "conv", "cpu", "int8", "s"],
        ["last", "conv", "cpu", "int8", "r"],
    ]
    again = [replace(row, layer="1") for row in rows]
    assert [line[0] for line in lines_of([*rows, *again])] == ["0 to 1", "0", "1", "2", "last"]


def test_a_layer_of_another_build_is_listed_with_its_reason() -> None:
    model = squeezebert_fast.patch(model_of("ours"))
    model.encoder.layers[0] = nn.Identity()
    assert {row[1:] for row in table(model)} == {("reference", "", "layer is a Identity")}
    model.encoder.layers[0] = nn.Linear(2, 2).bfloat16()
    assert {row[1:] for row in table(model)} == {("reference", "bfloat16", "layer is a Linear")}
    str(squeezebert_fast.explain(model))


def test_the_table_is_plain_text_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    model = model_of("ours")
    model.encoder.layers[0] = type("[bold]", (nn.Identity,), {})()
    text = str(squeezebert_fast.explain(squeezebert_fast.patch(model)))
    assert "\x1b" not in text
    assert "layer is a [bold]" in text
    assert max(map(len, text.splitlines())) <= 140


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        squeezebert_fast.ArgumentError, match=r"backend is 'gpu', expected one of auto, reference"
    ):
        squeezebert_fast.explain(model_of("ours"), backend="gpu")


def test_what_is_explained_holds_for_a_second_encoder_too() -> None:
    model = nn.ModuleList([model_of("ours", layers=1), model_of("theirs", layers=1)])
    squeezebert_fast.patch(model[0], backend="reference")
    rows = squeezebert_fast.explain(model).rows
    reasons = {row.layer: row.reason for row in rows}
    assert reasons == {
        "0.encoder.layers.0": "chosen by name",
        "1.encoder.layers.0": "the model is not patched",
    }
    assert {row.precision for row in rows} == {str(torch.float32).removeprefix("torch.")}
