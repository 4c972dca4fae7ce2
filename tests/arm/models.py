"""What the tests on emulated CPUs share. They run beside torch and pytest alone: no transformers, no xdist."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import squeezebert_fast
from squeezebert_fast import SqueezeBertConfig, SqueezeBertForSequenceClassification
from squeezebert_fast.backends import cpu

on_every_build = pytest.mark.parametrize("build", cpu.instruction_sets())


def small_model(**fields: Any) -> SqueezeBertForSequenceClassification:
    """A classifier whose group counts differ, with heads of 16 and weights wide enough apart for all to matter."""
    sizes: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 160,
        "max_position_embeddings": 40,
        "initializer_range": 0.2,
        "hidden_act": "gelu_new",  # int8's gelu is coarser: see tests/test_engine_int8.py
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "output_groups": 2,
    }
    torch.manual_seed(0)
    model = SqueezeBertForSequenceClassification(SqueezeBertConfig(**{**sizes, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def batch(sequences: int = 3, tokens: int = 33) -> dict[str, Tensor]:
    """Token ids with padding of another length in each sequence."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 61, (sequences, tokens), generator=generator)
    lengths = torch.arange(sequences) * 7 + tokens - 7 * (sequences - 1)
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths[:, None]).long()}


def patched(model: Any, precision: str = "float32") -> Any:
    """A patched copy; a kernel that doesn't serve it is an error."""
    return squeezebert_fast.patch(copy.deepcopy(model), precision=precision, backend="cpu", strict=True)


def logits(model: Any, **inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(**inputs).logits
