"""What the tests of the native encoder share: encoders, their inputs and masks, and whether it really ran."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.cpu import PRECISIONS as ALL_PRECISIONS
from squeezebert_fast.backends.cpu_encoder import CpuEncoder
from tests.model_pairs import pair, random_config, tiny_config

needs_native = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

LIBRARIES = ("ours", "theirs")
PRECISIONS = list(ALL_PRECISIONS)
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
LOWEST = torch.finfo(torch.float32).min

GROUPS = ("q", "k", "v", "post_attention", "intermediate", "output")


def groups(*counts: int) -> dict[str, int]:
    """The six group counts, or one for all."""
    return {f"{name}_groups": counts[i % len(counts)] for i, name in enumerate(GROUPS)}


EDGES: dict[str, dict[str, Any]] = {
    "one group": groups(1),
    "every channel a group": {"intermediate_size": 24, **groups(24)},
    "heads of one channel": {"num_attention_heads": 24, **groups(4)},
    "odd sizes": {
        "hidden_size": 35,
        "num_attention_heads": 5,
        "intermediate_size": 105,
        **groups(5, 7, 1, 35, 7, 5),
    },
    "heads across groups": {"num_attention_heads": 3, **groups(4)},
    "groups across heads": {
        "hidden_size": 60,
        "num_attention_heads": 5,
        "intermediate_size": 60,
        **groups(3),
    },
    "one head of 200": {
        "hidden_size": 200,
        "num_attention_heads": 1,
        "intermediate_size": 400,
        "initializer_range": 0.1,
        **groups(4, 4, 4, 1, 2, 4),
    },
    "a layer of the base model": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_hidden_layers": 1,
        "initializer_range": 0.05,
        **groups(4, 4, 4, 1, 4, 4),
    },
    "a dense layer of that size": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_hidden_layers": 1,
        "initializer_range": 0.05,
        **groups(1),
    },
}
"""Configurations that random ones miss: sums over K of several blocks, several chunks, widths of one."""


def encoder_of(library: str = "ours", seed: int = 0, config: Any = None, **fields: Any) -> nn.Module:
    """An unpatched encoder in eval mode with random weights, biases and norms."""
    ours, theirs = pair("SqueezeBertModel", config or tiny_config(**fields), seed)
    model: Any = ours if library == "ours" else theirs
    return model.encoder


def random_encoder(library: str, seed: int, **fields: Any) -> nn.Module:
    """One of a random configuration whose activation is one that the kernels apply."""
    config = random_config(seed, **{"hidden_act": ACTIVATIONS[seed % len(ACTIVATIONS)], **fields})
    return encoder_of(library, seed, config)


def unpatched(encoder: nn.Module) -> nn.Module:
    """A copy, unpatched."""
    return squeezebert_fast.unpatch(copy.deepcopy(encoder))


def channels_of(encoder: Any) -> int:
    return encoder.layers[0].output.layernorm.weight.shape[0]


def heads_of(encoder: Any) -> int:
    return encoder.layers[0].attention.num_attention_heads


def states(encoder: nn.Module, batch: int, tokens: int, seed: int = 0) -> Tensor:
    """Random hidden states for `encoder`, [batch, tokens, channels]."""
    return torch.randn(batch, tokens, channels_of(encoder), generator=torch.Generator().manual_seed(seed))


def padding_mask(keep: Tensor) -> Tensor:
    """[batch, tokens] booleans to what both libraries hand the encoder: [batch, 1, 1, tokens], 0 or the lowest."""
    return torch.where(keep, 0.0, LOWEST)[:, None, None]


def keep_some(batch: int, tokens: int, kind: str, seed: int = 0) -> Tensor:
    """Which tokens are real, [batch, tokens]: `right`, `left` or `holes` says where padding stands. One at least."""
    rng = random.Random(seed)
    keep = torch.zeros(batch, tokens, dtype=torch.bool)
    for row in keep:
        length = rng.randint(1, tokens)
        where = {
            "right": range(length),
            "left": range(tokens - length, tokens),
            "holes": sorted(rng.sample(range(tokens), length)),
        }[kind]
        row[list(where)] = True
    return keep


def masks_for(batch: int, tokens: int, heads: int, seed: int = 0) -> dict[str, Tensor | None]:
    """Every kind of mask that an encoder may be handed."""
    generator = torch.Generator().manual_seed(seed)
    fully_masked = keep_some(batch, tokens, "right", seed)
    fully_masked[batch // 2] = False
    scores = (batch, heads, tokens, tokens)
    blind = torch.zeros(scores)
    blind[0, :, tokens // 2] = LOWEST  # a query that attends to nothing
    causal = torch.full((tokens, tokens), -torch.inf).triu(1)
    return {
        "none": None,
        "right": padding_mask(keep_some(batch, tokens, "right", seed)),
        "left": padding_mask(keep_some(batch, tokens, "left", seed)),
        "holes": padding_mask(keep_some(batch, tokens, "holes", seed)),
        "minus infinity": torch.where(keep_some(batch, tokens, "right", seed), 0.0, -torch.inf)[
            :, None, None
        ],
        "one mask for all": padding_mask(keep_some(1, tokens, "holes", seed)),
        "a sequence without tokens": padding_mask(fully_masked),
        "soft": torch.randn(batch, 1, 1, tokens, generator=generator),
        "a large number": padding_mask(keep_some(batch, tokens, "right", seed)).clamp(min=-10000.0),
        "4-D additive": torch.randn(scores, generator=generator),
        "4-D boolean": torch.rand(scores, generator=generator) > 0.5,
        "4-D with a query that attends to nothing": blind,
        "4-D by query": causal[None, None].expand(batch, 1, tokens, tokens),
        "4-D by head": torch.randn(1, heads, 1, tokens, generator=generator),
        "4-D with strides": torch.randn(scores[:2] + scores[:1:-1], generator=generator).mT,
        "two axes": causal,
        "one axis": torch.where(torch.arange(tokens) == tokens - 1, 0.0, LOWEST),
    }


def run(encoder: nn.Module, x: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
    """The last hidden state, without gradients."""
    with torch.no_grad():
        return encoder(x, mask, **options)[0]


@contextmanager
def native_runs() -> Iterator[list[str]]:
    """Within the block, the precision of each forward that the native encoder ran."""
    runs: list[str] = []
    own = CpuEncoder.run

    def counted(self: CpuEncoder, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.precision)
        return own(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuEncoder, "run", counted)
        yield runs


def patched(encoder: nn.Module, precision: str = "float32", **options: Any) -> nn.Module:
    """A patched copy, on the native kernels by name: on a machine with only the scalar build `auto` avoids them."""
    return squeezebert_fast.patch(
        copy.deepcopy(encoder), precision=precision, **{"backend": "cpu", **options}
    )
