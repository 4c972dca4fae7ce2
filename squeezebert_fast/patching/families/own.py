"""This package's SqueezeBERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from squeezebert_fast.modeling import encoder as modeling
from squeezebert_fast.modeling import layers
from squeezebert_fast.modeling.outputs import BaseModelOutput
from squeezebert_fast.patching.families.family import Call, Embeddings, Family, Parts, nested

ENCODERS = (("squeezebert_fast.modeling.encoder", "SqueezeBertEncoder"),)
HOMES = ("squeezebert_fast.modeling.encoder", "squeezebert_fast.modeling.heads")
WORD_HEADS = {"SqueezeBertForMaskedLM": ("cls",)}

PLACES = Parts(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    heads="attention.num_attention_heads",
    attention_dropout="attention.dropout",
    post_attention="post_attention.conv1d",
    post_attention_dropout="post_attention.dropout",
    post_attention_norm="post_attention.layernorm",
    intermediate="intermediate.conv1d",
    activation="intermediate.act",
    output="output.conv1d",
    output_dropout="output.dropout",
    output_norm="output.layernorm",
)
EMBEDDINGS_ARGUMENTS = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")
SCORES = "output_attentions asks for the scores, which the accelerated layers don't keep"


def family(encoder: type[nn.Module]) -> Family:
    """See `families.FAMILIES`."""
    conv = layers.PointwiseConv1d
    norm_block = {"conv1d": conv, "dropout": nn.Dropout, "layernorm": nn.LayerNorm}
    attention = {"query": conv, "key": conv, "value": conv, "dropout": nn.Dropout}
    return OwnFamily(
        encoder=encoder,
        layer=layers.SqueezeBertModule,
        layers="layers",
        places=PLACES,
        modules=nested(
            {
                "attention": (layers.SqueezeBertSelfAttention, attention),
                "post_attention": (layers.ConvDropoutLayerNorm, norm_block),
                "intermediate": (layers.ConvActivation, {"conv1d": conv}),
                "output": (layers.ConvDropoutLayerNorm, norm_block),
            }
        ),
        embeddings=Embeddings(modeling.SqueezeBertEmbeddings, EMBEDDINGS_ARGUMENTS),
    )


class OwnFamily(Family):
    """This package's SqueezeBERT."""

    def call(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return _forward(*args, **kwargs)

    def result(self, encoder: nn.Module, call: Call, x: Tensor, states: tuple[Tensor, ...] | None) -> Any:
        if call.as_tuple:
            return (x,) if states is None else (x, states)
        return BaseModelOutput(last_hidden_state=x, hidden_states=states)

    def run_layer(self, layer: Any, x: Tensor, call: Call) -> Tensor:
        return layer(x, call.mask, False)[0]

    def checkpointed(
        self, encoder: Any, layer: Any, index: int, run: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        return encoder.checkpointed(run, index)


def _forward(
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
    return_dict: bool = True,
) -> Call:
    obstacle = SCORES if output_attentions else None
    return Call(hidden_states, attention_mask, output_hidden_states, not return_dict, obstacle=obstacle)
