"""torch's quantize_dynamic before and after patch, and tables of classes in general."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

import squeezebert_fast
from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.patching.linear import AcceleratedLinear
from squeezebert_fast.patching.swapping import Accelerated
from tests.works_with.helpers import LIBRARIES, inputs, logits, model_of, patched

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(
        torch.backends.quantized.engine == "none", reason="torch has no quantized engine here"
    ),
]
SPECIFICATIONS: dict[str, Any] = {"the default": None, "nn.Linear": {nn.Linear}}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("specification", SPECIFICATIONS)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_patched_model_is_quantized_as_an_unpatched_one(
    inplace: bool, specification: str, library: str
) -> None:
    model, batch = model_of(library), inputs()
    wanted = SPECIFICATIONS[specification]
    expected = quantize_dynamic(model, wanted)
    fast = patched(model)
    actual = quantize_dynamic(fast, wanted, inplace=inplace)
    assert (actual is fast) == inplace
    for name, module in expected.named_modules():
        quantized = isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
        assert isinstance(actual.get_submodule(name), torch.ao.nn.quantized.dynamic.Linear) == quantized
        assert quantized or not isinstance(module, nn.Linear)
    torch.testing.assert_close(logits(actual, batch), logits(expected, batch), rtol=2e-2, atol=2e-2)
    assert any(isinstance(module, Accelerated) for module in actual.modules()), "the encoder is patched still"
    assert not any(isinstance(m, Accelerated) for m in squeezebert_fast.unpatch(actual).modules())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_quantized_model_can_be_patched(library: str) -> None:
    model, batch = quantize_dynamic(model_of(library), {nn.Linear}), inputs()
    expected = logits(model, batch)
    torch.testing.assert_close(logits(squeezebert_fast.patch(model), batch), expected, rtol=2e-2, atol=2e-2)


def test_a_quantized_model_is_not_saved_in_part(tmp_path: Path) -> None:
    model: Any = quantize_dynamic(model_of("ours"), {nn.Linear})
    with pytest.raises(CheckpointError, match=r"pooler\.dense.*before torch quantizes"):
        model.save_pretrained(tmp_path / "floats")
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.weight: a layer of it was replaced"):
        squeezebert_fast.save_quantized(model, tmp_path / "int8")
    assert not list(tmp_path.iterdir())


def test_an_accelerated_class_is_found_in_tables_of_classes() -> None:
    cls = type(patched(model_of("ours")).classifier)
    assert issubclass(cls, AcceleratedLinear)
    assert {nn.Linear: "counted"}[cls] == "counted"
    assert cls in [nn.Linear]
    assert cls in {nn.Linear}
    assert cls == nn.Linear
    assert nn.Linear == cls
    assert cls is not nn.Linear
    assert cls != nn.Module
    assert cls != nn.Bilinear


def test_a_class_that_extends_an_accelerated_one_equals_nothing_else() -> None:
    cls = type(patched(model_of("ours")).classifier)

    class Other:
        pass

    for bases in ((cls,), (cls, Other)):
        extended = type("Extended", bases, {})
        assert extended not in {nn.Linear, cls, Other}
        assert extended not in [nn.Linear, cls, Other]


def test_classes_that_are_equal_are_no_reason_to_take_a_stale_forward() -> None:
    model, batch = patched(model_of("ours"), precision="int8"), inputs()
    int8 = logits(model, batch)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))  # noqa: S301 (made here)
    assert torch.equal(logits(copied, batch), int8)
    assert not torch.equal(logits(squeezebert_fast.unpatch(model), batch), int8)
