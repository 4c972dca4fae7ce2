"""On matrix units, float32 follows `torch.set_float32_matmul_precision`.

Where the build has none, encoder and operations are told that it has: what they then ask the native module for is
float32's own kernels under other names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

import squeezebert_fast
from squeezebert_fast import ops
from squeezebert_fast.backends import cpu
from squeezebert_fast.ops import reference
from squeezebert_fast.patching.plan import engine_of
from tests.engine_helpers import LIBRARIES, encoder_of, needs_native, patched, run, states
from tests.gradient_helpers import Operation, Random, assert_gradients_within_rule, result_and_gradients
from tests.helpers import assert_within_rule

pytestmark = needs_native

PRODUCTS = {"highest": 6, "high": 3, "medium": 1}


@pytest.fixture(autouse=True)
def restored_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu.products_by_parts("float32_highest"):
        forms = {f"float32_{word}": products for word, products in PRODUCTS.items()}
        monkeypatch.setattr(cpu, "products_by_parts", lambda form: forms.get(form, 0))


def form_of(encoder: torch.nn.Module) -> str:
    engine = engine_of(encoder)
    assert engine is not None
    return engine.native.form  # type: ignore[union-attr]


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize("library", LIBRARIES)
def test_layers_are_packed_for_what_pytorch_is_asked_for_and_anew_when_that_changes(library: str) -> None:
    encoder = patched(encoder_of(library))
    x = states(encoder, 2, 70)
    made = []
    for word in ("highest", "high", "high", "medium", "highest"):
        torch.set_float32_matmul_precision(word)
        run(encoder, x)
        assert form_of(encoder) == f"float32_{word}"
        made.append(engine_of(encoder))
    assert [a is b for a, b in pairwise(made)] == [False, True, False, False]


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_are_what_they_are(precision: str) -> None:
    encoder = patched(encoder_of(), precision)
    x = states(encoder, 1, 5)
    expected = run(encoder, x)
    first = engine_of(encoder)
    torch.set_float32_matmul_precision("medium")
    assert torch.equal(run(encoder, x), expected)
    assert engine_of(encoder) is first
    assert form_of(encoder) == precision


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize("word", PRODUCTS)
def test_explain_says_how_many_products_stand_for_one(word: str) -> None:
    torch.set_float32_matmul_precision(word)
    reasons = {row.reason for row in squeezebert_fast.explain(patched(encoder_of())).rows}
    assert reasons == {
        f"one call for all layers in inference, {cpu.instruction_set()} build, from 64 tokens by bfloat16 products, "
        f"{PRODUCTS[word]} for one ({word})"
    }


@pytest.mark.usefixtures("matrix_units")
def test_given_up_originals_stay_as_they_were_packed() -> None:
    encoder = patched(encoder_of(), keep_original=False)
    x = states(encoder, 1, 70)
    expected = run(encoder, x)
    torch.set_float32_matmul_precision("high")
    assert torch.equal(run(encoder, x), expected)
    assert form_of(encoder) == "float32_highest"
    assert all("6 for one (highest)" in row.reason for row in squeezebert_fast.explain(encoder).rows)


@pytest.mark.usefixtures("matrix_units")
def test_a_precision_that_pytorch_keeps_by_backend_is_taken_for_the_highest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs to set the matmul precision")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert cpu.form_of("float32") == "float32_highest"


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_highest_is_float32_within_the_rule(library: str) -> None:
    encoder = encoder_of(library)
    x = states(encoder, 2, 70)
    fast = patched(encoder)
    assert_within_rule(run(fast, x), run(encoder, x), run(encoder.double(), x.double()))


@pytest.mark.parametrize("word", PRODUCTS)
def test_without_matrix_units_float32_is_float32(word: str) -> None:
    with cpu.use_instruction_set("scalar"):
        torch.set_float32_matmul_precision(word)
        assert cpu.form_of("float32") == "float32"
        assert cpu.products_by_parts(f"float32_{word}") == 0


# Single operations, forward and backward


class _Seen(dict[str, Any]):
    """NATIVE_PRECISIONS; remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(cpu.NATIVE_PRECISIONS)
        self.forms: set[str] = set()

    def __getitem__(self, form: str) -> Any:
        self.forms.add(form)
        return super().__getitem__(form)


def operations(rows: int) -> list[tuple[Operation, Operation, list[torch.Tensor]]]:
    """Each native, as a definition, and with its tensors, which all want gradients."""
    random, groups = Random(rows), 2
    x, first, second = random(1, rows, 24), random(36, 12, 1, scale=0.3), random(24, 18, 1, scale=0.3)
    weights = [random(24, 12, 1, scale=0.3) for _ in range(3)]
    biases = [random(24), random(24), random(24), random(36)]

    def of(module: Any, **choice: Any) -> list[Operation]:
        return [
            lambda *t: module.grouped_pointwise_conv(*t, groups, "gelu", **choice),
            lambda x, *t: torch.cat(module.qkv_projection(x, *t, groups, **choice), dim=-1),
            lambda *t: module.grouped_mlp(*t, groups, "gelu", **choice),
        ]

    tensors = [
        [x, first, biases[3]],
        [x, *(tensor for pair in zip(weights, biases[:3], strict=True) for tensor in pair)],
        [x, first, biases[3], second, biases[0]],
    ]
    return list(zip(of(ops, backend="cpu", strict=True), of(reference), tensors, strict=True))


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize("word", PRODUCTS)
def test_products_follow_it_however_many_rows_there_are(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision(word)
    for rows in (1, 70):
        for native, _, tensors in operations(rows):
            seen = _Seen()
            monkeypatch.setattr(cpu, "NATIVE_PRECISIONS", seen)
            result_and_gradients(native, tensors)
            # whether there are parts is asked of the highest
            assert seen.forms | {"float32_highest"} == {f"float32_{word}", "float32_highest"}


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize("rows", [1, 70, 300])
def test_results_and_gradients_at_the_highest_are_within_the_rule(rows: int) -> None:
    for native, definition, tensors in operations(rows):
        assert_gradients_within_rule(native, definition, tensors)


@pytest.mark.usefixtures("matrix_units")
def test_a_setting_between_forward_and_backward_is_the_backwards() -> None:
    native, _, tensors = operations(70)[2]
    y = native(*tensors)
    torch.set_float32_matmul_precision("high")
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    mixed = torch.autograd.grad(y, tensors, weights)
    all_high = result_and_gradients(native, tensors)[1:]
    assert all(torch.equal(a, b) for a, b in zip(mixed, all_high, strict=True))
