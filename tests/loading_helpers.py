"""Small models and the checks that the tests of loading and saving share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.loading.checkpoint import load_pretrained
from squeezebert_fast.modeling import SqueezeBertModel

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 19,
    "q_groups": 2,
}


def make(cls: Any = SqueezeBertModel, seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    model = cls(SqueezeBertConfig(**{**SIZES, **fields})).eval()
    with torch.no_grad():  # biases and LayerNorms too, which start alike in every model
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor.to(actual[name].dtype)), name


def write_bin(directory: Path, state: dict[str, Any], config: SqueezeBertConfig, **options: Any) -> Path:
    directory.mkdir()
    torch.save(state, directory / "pytorch_model.bin", **options)
    config.save(directory / "config.json")
    return directory


def fails(
    error: type[Exception], directory: Any, *parts: str, cls: Any = SqueezeBertModel, **options: Any
) -> None:
    with pytest.raises(error) as caught:
        load_pretrained(cls, directory, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
