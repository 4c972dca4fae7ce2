"""ONNX export of a patched model by both of torch's exporters: the unpatched graph, run in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from squeezebert_fast import ops
from tests.works_with.helpers import CLOSE, LIBRARIES, Logits, inputs, logits, model_of, patched

EXPORTERS = {"the default exporter": True, "the TorchScript exporter": False}


def exported(model: nn.Module, given: tuple[Tensor, ...], path: Path, dynamo: bool) -> list[Any]:
    """What ONNX Runtime makes of the exported model. The file has operations of ONNX's own alone."""
    torch.onnx.export(model.eval(), given, path, dynamo=dynamo, verbose=False)
    domains = {node.domain for node in onnx.load(path).graph.node}
    assert not any("squeezebert" in domain for domain in domains)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, {name: each.numpy() for name, each in zip(names, given, strict=True)})


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_patched_model_exports_as_an_unpatched_one(exporter: str, library: str, tmp_path: Path) -> None:
    model = model_of(library)
    batch = inputs()
    given = batch["input_ids"], batch["attention_mask"]
    expected = logits(model, {"input_ids": given[0], "attention_mask": given[1]})
    fast = patched(model)
    before = logits(fast, batch)
    (actual,) = exported(Logits(fast), given, tmp_path / "model.onnx", EXPORTERS[exporter])
    torch.testing.assert_close(torch.from_numpy(actual), expected, **CLOSE)
    assert torch.equal(logits(fast, batch), before), "the model has changed"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_single_operation_exports_too(tmp_path: Path) -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4, 1, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: Tensor) -> Tensor:
            return ops.grouped_pointwise_conv(x, self.weight, None, 2, "gelu")

    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    module = Convolution()
    (actual,) = exported(module, (x,), tmp_path / "conv.onnx", dynamo=True)
    torch.testing.assert_close(torch.from_numpy(actual), module(x).detach(), **CLOSE)
