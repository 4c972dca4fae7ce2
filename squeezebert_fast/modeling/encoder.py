"""Embeddings, the stack of layers, the pooler, and the model made of the three."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.inputs import additive_mask, check_inputs, explain_index_error
from squeezebert_fast.modeling.layers import SqueezeBertModule
from squeezebert_fast.modeling.outputs import BaseModelOutput, BaseModelOutputWithPooling


class SqueezeBertEmbeddings(nn.Module):
    """`dropout(LayerNorm(word + position + token type))`."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, channels, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, channels)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, channels)
        self.LayerNorm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """[batch, tokens] ids, or [batch, tokens, channels] word embeddings, to [batch, tokens, channels].

        Raises ArgumentError for an index out of range, on devices that report one (a GPU doesn't).
        """
        if inputs_embeds is None:
            assert input_ids is not None  # check_inputs
            inputs_embeds = _look_up(self.word_embeddings, input_ids, "input_ids", "vocab_size")
        batch, tokens = inputs_embeds.shape[:2]
        if position_ids is None:
            position_ids = torch.arange(tokens, device=inputs_embeds.device)[None]
        if token_type_ids is None:
            token_type_ids = torch.zeros((batch, tokens), dtype=torch.long, device=inputs_embeds.device)
        positions = _look_up(
            self.position_embeddings, position_ids, "position_ids", "max_position_embeddings"
        )
        types = _look_up(self.token_type_embeddings, token_type_ids, "token_type_ids", "type_vocab_size")
        return self.dropout(self.LayerNorm(inputs_embeds + positions + types))


def _look_up(table: nn.Embedding, ids: Tensor, name: str, size_name: str) -> Tensor:
    try:
        return table(ids)
    except IndexError as error:  # PyTorch's own message names neither the argument nor the index
        raise explain_index_error(name, ids, table.num_embeddings, size_name) or error from None


class SqueezeBertEncoder(nn.Module):
    """The stack of layers, each recomputed in a training step's backward pass if `gradient_checkpointing`."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SqueezeBertModule(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.gradient_checkpointing_kwargs: dict[str, Any] = {}
        self.gradient_checkpointing_every = 1
        self.gradient_checkpointing_offload = False

    def checkpointed(self, run: Callable[..., Any], index: int) -> Callable[..., Any]:
        """`run`, which computes layer `index`, recomputed in the backward pass where the model is asked to."""
        wanted = self.gradient_checkpointing and self.training
        if not wanted or index % self.gradient_checkpointing_every:
            return run
        offload = self.gradient_checkpointing_offload
        return functools.partial(_recompute, run, offload=offload, **self.gradient_checkpointing_kwargs)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Run every layer.

        hidden_states: [batch, tokens, channels]. attention_mask: added to the scores, of the same dtype,
        broadcastable to [batch, heads, queries, keys], or None. Returns a `BaseModelOutput`, or its tuple.
        """
        all_hidden_states = [hidden_states]
        all_scores = []
        for index, layer in enumerate(self.layers):
            run = self.checkpointed(layer, index)
            hidden_states, scores = run(hidden_states, attention_mask, output_attentions)
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            if output_attentions:
                all_scores.append(scores)
        output = BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_scores) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()


def _recompute(run: Callable[..., Any], *inputs: Any, offload: bool, **options: Any) -> Any:
    with save_on_cpu(pin_memory=torch.cuda.is_available()) if offload else nullcontext():
        return checkpoint(run, *inputs, **options)


class SqueezeBertPooler(nn.Module):
    """The first token's hidden state through a dense layer and tanh."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[batch, tokens, channels] to [batch, channels]."""
        return self.activation(self.dense(hidden_states[:, 0]))


class SqueezeBertModel(SqueezeBertPreTrainedModel):
    """The bare encoder: hidden states of every token and a pooled one for the sequence.

    Source: arXiv 2006.11316; transformers' `SqueezeBertModel`, whose results and state_dict names it has.

    >>> config = SqueezeBertConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1)
    >>> SqueezeBertModel(config)(torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
    torch.Size([1, 3, 64])
    """

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        self.embeddings = SqueezeBertEmbeddings(self.config)
        self.encoder = SqueezeBertEncoder(self.config)
        self.pooler = SqueezeBertPooler(self.config)
        self.init_weights()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
        self.embeddings.word_embeddings = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: Tensor | Sequence[Tensor | None] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode a batch of token sequences.

        input_ids: int64 or int32 [batch, tokens], or in their place inputs_embeds: [batch, tokens, channels].
        attention_mask: [batch, tokens], nonzero for tokens to attend to, or a 4-D additive mask (see
        `additive_mask`).
        token_type_ids, position_ids: [batch, tokens] or [1, tokens]; by default zeros, and 0 to tokens - 1.
        output_attentions, output_hidden_states, return_dict: by default the configuration's.
        head_mask: None, or None for each layer; transformers 5 has none either. num_items_in_batch does nothing.
        Raises ArgumentError, naming the argument.
        """
        if head_mask is not None and (
            isinstance(head_mask, Tensor) or any(mask is not None for mask in head_mask)
        ):
            raise ArgumentError("head_mask is given, expected None: masks of heads are not supported")
        config = self.config
        words = self.embeddings.word_embeddings.weight
        check_inputs(config, words, input_ids, token_type_ids, position_ids, inputs_embeds)
        embedded = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        encoded = self.encoder(
            embedded,
            additive_mask(attention_mask, embedded, config.num_attention_heads),
            output_attentions=config.output_attentions if output_attentions is None else output_attentions,
            output_hidden_states=config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states,
            return_dict=True,
        )
        output = BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=self.pooler(encoded.last_hidden_state),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return_dict = config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()
