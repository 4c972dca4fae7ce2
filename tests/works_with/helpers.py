"""What these tests share: each library's classifier, patched or not, and the pipelines' tokenizer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import squeezebert_fast
from tests.model_pairs import inputs_for, pair, tiny_config

LIBRARIES = ("ours", "theirs")
NAME = "SqueezeBertForSequenceClassification"
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def model_of(library: str, name: str = NAME, **fields: Any) -> Any:
    """A tiny model in eval mode, unpatched; the same weights for both libraries."""
    ours, theirs = pair(name, tiny_config(**fields))
    return ours if library == "ours" else theirs


def patched(model: nn.Module, **options: Any) -> Any:
    """A patched copy."""
    return squeezebert_fast.patch(copy.deepcopy(model), **options)


def inputs(name: str = NAME, **sizes: int) -> dict[str, Tensor]:
    return inputs_for(name, tiny_config(), **sizes)


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


class Logits(nn.Module):
    """A classifier with tensors in and a tensor out, as exporters want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits
