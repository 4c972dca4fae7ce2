"""The encoder as the native engine runs it: packed alone, without the model around it, and what its passes cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.report import Shape
from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel
from squeezebert_fast.backends.cpu_encoder import CpuEncoder
from squeezebert_fast.patching.plan import Plan

DENSE = dict.fromkeys(
    (f"{name}_groups" for name in ("q", "k", "v", "post_attention", "intermediate", "output")), 1
)
MODELS: dict[str, dict[str, int]] = {
    "squeezebert": {},
    "bert": DENSE,
    "minilm": {
        **DENSE,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}
"""What sets a model apart from the base size: a BERT is a SqueezeBERT with one group, also to the native encoder."""


def base_model(name: str = "squeezebert") -> SqueezeBertModel:
    """The base size, or another of MODELS, with random weights."""
    torch.manual_seed(0)
    return SqueezeBertModel(SqueezeBertConfig(**MODELS[name])).eval()


def native_encoder(model: SqueezeBertModel, precision: str) -> CpuEncoder:
    return CpuEncoder(Plan(model.encoder).layers(), precision)


@dataclass(frozen=True)
class PassWork:
    """Operations of one kind of pass in one forward, two for each multiply-add."""

    products: int
    """With weights, in the engine's precision."""
    scores: int = 0
    """Of queries with keys, and of probabilities with values: in `cpu.scores_precision`."""

    @property
    def flops(self) -> int:
        return self.products + self.scores


def pass_work(config: SqueezeBertConfig, shape: Shape) -> dict[str, PassWork]:
    """By the names of `CpuEncoder.profile`; together they are `encoder_flops`."""
    batch, tokens = shape
    hidden, intermediate = config.hidden_size, config.intermediate_size
    rows = 2 * batch * tokens * config.num_hidden_layers
    qkv = sum(hidden * hidden // groups for groups in (config.q_groups, config.k_groups, config.v_groups))
    feed_forward = hidden * intermediate // config.intermediate_groups
    feed_forward += hidden * intermediate // config.output_groups
    return {
        "attention": PassWork(rows * qkv, rows * 2 * tokens * hidden),
        "post_attention": PassWork(rows * (hidden * hidden // config.post_attention_groups)),
        "feed_forward": PassWork(rows * feed_forward),
    }
