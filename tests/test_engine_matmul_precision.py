"""On matrix units, float32 follows `torch.set_float32_matmul_precision`.

Where the build has none, the encoder is told that it has: what it then asks the native module for is float32's own
kernels under other names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.patching.plan import engine_of
from tests.engine_helpers import LIBRARIES, encoder_of, needs_native, patched, run, states
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
