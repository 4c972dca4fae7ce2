"""transformers' SqueezeBERT, whose layers give [batch, channels, tokens] in a dict, and are called past their hooks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from squeezebert_fast.patching.families.family import Call, Embeddings, Family, nested
from squeezebert_fast.patching.families.own import EMBEDDINGS_ARGUMENTS, PLACES, SCORES
from squeezebert_fast.patching.families.ready_masks import holder_in

HOMES = ("transformers.models.squeezebert.modeling_squeezebert",)
WORD_HEADS = {"SqueezeBertForMaskedLM": ("cls",)}
ENCODERS = ((HOMES[0], "SqueezeBertEncoder"),)


def family(encoder: type[nn.Module]) -> Family:
    """See `families.FAMILIES`."""
    names = sys.modules[HOMES[0]].__dict__
    wrapper = names["MatMulWrapper"]
    norm_block = {"conv1d": nn.Conv1d, "dropout": nn.Dropout, "layernorm": names["SqueezeBertLayerNorm"]}
    attention: dict[str, Any] = {"query": nn.Conv1d, "key": nn.Conv1d, "value": nn.Conv1d}
    attention |= {"dropout": nn.Dropout, "softmax": nn.Softmax, "matmul_qk": wrapper, "matmul_qkv": wrapper}
    return TransformersSqueezeBert(
        encoder=encoder,
        layer=names["SqueezeBertModule"],
        layers="layers",
        places=PLACES,
        modules=nested(
            {
                "attention": (names["SqueezeBertSelfAttention"], attention),
                "post_attention": (names["ConvDropoutLayerNorm"], norm_block),
                "intermediate": (names["ConvActivation"], {"conv1d": nn.Conv1d}),
                "output": (names["ConvDropoutLayerNorm"], norm_block),
            }
        ),
        embeddings=Embeddings(names["SqueezeBertEmbeddings"], EMBEDDINGS_ARGUMENTS),
        holder=holder_in(names, "SqueezeBertModel", "encoder"),
        hooks_fire=False,
        activation_is_channels_first=True,
        has_head_mask="head_mask" in inspect.signature(encoder.forward).parameters,
    )


@dataclass(frozen=True)
class TransformersSqueezeBert(Family):
    """transformers' SqueezeBERT, which has no gradient checkpointing."""

    has_head_mask: bool = False
    """Whether the encoder's third argument is one, as in transformers 4."""

    def call(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return (_forward_4 if self.has_head_mask else _forward)(*args, **kwargs)

    def result(self, encoder: nn.Module, call: Call, x: Tensor, states: tuple[Tensor, ...] | None) -> Any:
        if call.as_tuple:
            return (x,) if states is None else (x, states)
        output = sys.modules[HOMES[0]].__dict__["BaseModelOutput"]
        return output(last_hidden_state=x, hidden_states=states)

    def run_layer(self, layer: Any, x: Tensor, call: Call) -> Tensor:
        return layer.forward(x.mT, call.mask, False)["feature_map"].mT


def _forward(
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
    return_dict: bool = True,
    *,
    head_mask: Sequence[Tensor | None] | None = None,
) -> Call:
    obstacle = SCORES if output_attentions else None
    if obstacle is None and head_mask is not None and any(mask is not None for mask in head_mask):
        obstacle = "the accelerated layers take no head_mask"
    return Call(hidden_states, attention_mask, output_hidden_states, not return_dict, obstacle=obstacle)


def _forward_4(
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    head_mask: Sequence[Tensor | None] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Call:
    """As of transformers 4."""
    return _forward(hidden_states, attention_mask, *args, head_mask=head_mask, **kwargs)
