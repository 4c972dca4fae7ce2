"""transformers' RoBERTa, XLM-RoBERTa and CamemBERT: BERT's encoder, and positions that count the real tokens alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from squeezebert_fast.patching.families.family import Embeddings, Family
from squeezebert_fast.patching.families.own import EMBEDDINGS_ARGUMENTS
from squeezebert_fast.patching.families.transformers_bert import bert_like, relative_positions

HOMES = tuple(
    f"transformers.models.{name}.modeling_{name}" for name in ("roberta", "xlm_roberta", "camembert")
)
WORD_HEADS = {f"{prefix}ForMaskedLM": ("lm_head",) for prefix in ("Roberta", "XLMRoberta", "Camembert")}
ENCODERS = tuple(zip(HOMES, ("RobertaEncoder", "XLMRobertaEncoder", "CamembertEncoder"), strict=True))


def family(encoder: type[nn.Module]) -> Family:
    """See `families.FAMILIES`."""
    return bert_like(encoder, _embeddings)


def _embeddings(cls: type[nn.Module]) -> Embeddings:
    return Embeddings(
        cls,
        EMBEDDINGS_ARGUMENTS,
        idle=("cache_length", "past_key_values_length"),
        positions=_positions,
        obstacle=relative_positions,
    )


def _positions(module: Any, input_ids: Tensor) -> Tensor:
    """From `padding_idx` + 1 on for real tokens, `padding_idx` for padding."""
    real = input_ids.ne(module.padding_idx)
    return (real.cumsum(1) * real + module.padding_idx).to(input_ids.dtype)
