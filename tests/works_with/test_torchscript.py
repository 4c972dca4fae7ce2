"""torch.jit and torch.fx on a patched model: they record PyTorch's operations, as of an unpatched one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from squeezebert_fast.errors import UnsupportedError
from tests.works_with.helpers import CLOSE, LIBRARIES, Logits, inputs, logits, model_of, patched

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# What a scripted or traced part is called with, and where it stands in either library's model.
PARTS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "the pooler": ("SqueezeBertModel", "pooler", (2, 3, 24)),
    "a classifier": ("SqueezeBertForTokenClassification", "classifier", (2, 3, 24)),
    "the masked-language-model head": ("SqueezeBertForMaskedLM", "cls", (2, 3, 24)),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("with_gradients", [True, False])
def test_a_trace_passes_its_own_check(with_gradients: bool, library: str) -> None:
    model = model_of(library)
    batch = inputs()
    given = batch["input_ids"], batch["attention_mask"]
    with torch.set_grad_enabled(with_gradients):
        traced = torch.jit.trace(Logits(patched(model)), given, check_trace=True)
        actual = traced(*given).detach()
    expected = logits(model, {"input_ids": given[0], "attention_mask": given[1]})
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_scripted_as_it_was_written(part: str, library: str) -> None:
    name, path, shape = PARTS[part]
    model = model_of(library, name)
    fast = patched(model)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if part == "the masked-language-model head" and library == "ours":
        # its activation is looked up by name, which TorchScript can't, patched or not
        fast.cls.predictions.transform.transform_act_fn = nn.GELU()
        model.cls.predictions.transform.transform_act_fn = nn.GELU()
    before = [type(module) for module in fast.modules()]
    scripted = torch.jit.script(fast.get_submodule(path))
    torch.testing.assert_close(scripted(x), model.get_submodule(path)(x), **CLOSE)
    assert all(a is type(b) for a, b in zip(before, fast.modules(), strict=True)), (
        "the model is not patched any more"
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_torch_fx_records_what_the_pooler_does(library: str) -> None:
    model = model_of(library, "SqueezeBertModel")
    x = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    graph = torch.fx.symbolic_trace(patched(model).pooler)
    torch.testing.assert_close(graph(x), model.pooler(x), **CLOSE)


def test_what_has_given_up_its_weights_says_so() -> None:
    model: Any = patched(model_of("ours"), keep_original=False)
    batch = inputs()
    with pytest.raises(UnsupportedError, match=r"torch\.jit is tracing"):
        torch.jit.trace(Logits(model), (batch["input_ids"], batch["attention_mask"]))
