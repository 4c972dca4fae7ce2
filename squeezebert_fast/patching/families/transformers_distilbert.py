"""transformers' DistilBERT: no token types, no dropout behind the attention's product, names of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.patching.families.family import Call, Embeddings, Family, Mask, Parts, nested
from squeezebert_fast.patching.families.own import SCORES
from squeezebert_fast.patching.families.ready_masks import holder_in
from squeezebert_fast.patching.families.transformers_bert import BertFamily, versions

HOMES = ("transformers.models.distilbert.modeling_distilbert",)
WORD_HEADS = {
    "DistilBertForMaskedLM": ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")
}
ENCODERS = ((HOMES[0], "Transformer"),)

PLACES = Parts(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    heads="attention.n_heads",
    attention_dropout="attention.dropout",
    post_attention="attention.out_lin",
    post_attention_dropout="",
    post_attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    activation="ffn.activation",
    output="ffn.lin2",
    output_dropout="ffn.dropout",
    output_norm="output_layer_norm",
)


KEYS = "attn_mask"
"""Where a call keeps a mask [batch, keys], transformers 4's name for it."""


def family(encoder: type[nn.Module]) -> Family:
    """See `families.FAMILIES`."""
    names = sys.modules[HOMES[0]].__dict__
    # the first of transformers 5, the others of 4
    attentions = ("DistilBertSelfAttention", "MultiHeadSelfAttention", "DistilBertSdpaAttention")
    products = dict.fromkeys(("q_lin", "k_lin", "v_lin", "out_lin"), nn.Linear)
    layer = names["TransformerBlock"]
    return DistilBertFamily(
        encoder=encoder,
        layer=layer,
        layers="layer",
        places=PLACES,
        modules=nested(
            {
                "attention": (
                    tuple(names[name] for name in attentions if name in names),
                    {**products, "dropout": nn.Dropout},
                ),
                "sa_layer_norm": (nn.LayerNorm, {}),
                "ffn": (names["FFN"], {"lin1": nn.Linear, "lin2": nn.Linear, "dropout": nn.Dropout}),
                "output_layer_norm": (nn.LayerNorm, {}),
            }
        ),
        embeddings=Embeddings(
            names["Embeddings"],
            # transformers 4 has input_embeds, and no positions
            ("input_ids", "inputs_embeds", "position_ids"),
            token_types=False,
        ),
        holder=holder_in(names, "DistilBertModel", "transformer"),
        **versions(encoder, layer),
    )


@dataclass(frozen=True)
class DistilBertFamily(BertFamily):
    """DistilBERT. In transformers 4, eager attention takes [batch, keys], nonzero for what is attended to."""

    def call(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = super().call(encoder, args, kwargs)
        if call.mask is not None and self._takes_keys(encoder, call) and call.mask.dim() == 2:
            return call._replace(mask=call.mask[:, None, None], extra={**call.extra, KEYS: call.mask})
        return call

    def _takes_keys(self, encoder: nn.Module, call: Call) -> bool:
        # for scores sdpa's class calls the eager one's
        return self.returns_states and (call.obstacle == SCORES or not self._is_sdpa(encoder))

    def mask(self, encoder: Any, call: Call) -> Mask:
        if call.mask is None or not self._takes_keys(encoder, call):
            return super().mask(encoder, call)
        lowest = torch.finfo(call.x.dtype).min
        added = torch.zeros(call.mask.shape, dtype=call.x.dtype, device=call.x.device)
        return Mask(added.masked_fill(call.mask == 0, lowest))

    def run_layer(self, layer: Any, x: Tensor, call: Call) -> Tensor:
        y = self.called(layer, x, call._replace(mask=call.extra.get(KEYS, call.mask)))
        return y[-1] if self.returns_states else y
