"""The task heads on top of `SqueezeBertModel`, each with transformers' arguments, outputs and losses.

Arguments that a `forward` here doesn't explain are those of `SqueezeBertModel.forward`. num_items_in_batch, by which
transformers' Trainer would have a model scale its loss, does nothing, as in transformers' SqueezeBERT: every loss is a
mean over its batch, and Trainer scales it (`accepts_loss_kwargs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeezebert_fast.activations import get_activation
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, ConfigError
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.encoder import SqueezeBertModel
from squeezebert_fast.modeling.losses import cross_entropy, sequence_loss, span_loss
from squeezebert_fast.modeling.outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class _WithHead(SqueezeBertPreTrainedModel):
    """A model with a `SqueezeBertModel` inside."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.transformer = SqueezeBertModel(self.config)

    def _encode(self, *inputs: Tensor | None, **options: Any) -> BaseModelOutputWithPooling:
        """What the body makes of its five inputs, in their order in `forward`."""
        return self.transformer(*inputs, return_dict=True, **options)

    def _returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()


class _WithLabels(_WithHead):
    """A model whose head makes logits, which labels make a loss of. Its class says what either is."""

    output_class: ClassVar[Callable[..., ModelOutput]]

    def _logits(self, encoded: BaseModelOutputWithPooling) -> Tensor:
        raise NotImplementedError

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: Tensor | Sequence[Tensor | None] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """labels: as the class has them, or None for no loss. Returns the class's output, or its tuple."""
        encoded = self._encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            head_mask=head_mask,
        )
        logits = self._logits(encoded)
        output = self.output_class(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._returned(output, return_dict)


class SqueezeBertPredictionHeadTransform(nn.Module):
    """`LayerNorm(activation(dense(x)))`."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = get_activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class SqueezeBertLMPredictionHead(nn.Module):
    """Scores every word of the vocabulary: `decoder(transform(x))`, whose bias is also `bias`."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        self.transform = SqueezeBertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))


class SqueezeBertOnlyMLMHead(nn.Module):
    """Holds the prediction head under transformers' name."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        self.predictions = SqueezeBertLMPredictionHead(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.predictions(hidden_states)


class SqueezeBertForMaskedLM(_WithLabels):
    """Predicts masked words. The decoder has the word embeddings' weight if `config.tie_word_embeddings`.

    logits: [batch, tokens, words], in the model's dtype. labels: [batch, tokens] word indices, -100 where a token
    doesn't count.
    Source: transformers' `SqueezeBertForMaskedLM`.

    >>> config = SqueezeBertConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1, vocab_size=200)
    >>> SqueezeBertForMaskedLM(config)(torch.tensor([[101, 103, 102]])).logits.shape
    torch.Size([1, 3, 200])
    """

    output_class = MaskedLMOutput
    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "cls.predictions.decoder.weight": "transformer.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = list(_tied_weights_keys)

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        self.cls = SqueezeBertOnlyMLMHead(self.config)
        self.init_weights()

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder, and with it the bias."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    def _logits(self, encoded: BaseModelOutputWithPooling) -> Tensor:
        return self.cls(encoded.last_hidden_state)


class SqueezeBertForSequenceClassification(_WithLabels):
    """Classifies sequences, or predicts numbers, from the pooled token.

    logits: [batch, num_labels], in the model's dtype. labels: see `losses.sequence_loss`.
    Source: transformers' `SqueezeBertForSequenceClassification`.

    >>> model = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL)
    >>> tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    >>> model(**tokenizer("What a lovely film.", return_tensors="pt")).logits.argmax(-1)
    tensor([1])
    """

    output_class = SequenceClassifierOutput

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.init_weights()

    def _logits(self, encoded: BaseModelOutputWithPooling) -> Tensor:
        return self.classifier(self.dropout(encoded.pooler_output))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return sequence_loss(self.config, logits, labels)


# The inputs of a model, and how many axes each has with one for choices.
AXES = {"input_ids": 3, "attention_mask": 3, "token_type_ids": 3, "position_ids": 3, "inputs_embeds": 4}


class SqueezeBertForMultipleChoice(_WithLabels):
    """Scores the choices of each question; every choice is a sequence of its own.

    Every input has an axis of choices after the batch's: [batch, choices, tokens]. logits: [batch, choices], in the
    model's dtype. labels: [batch] indices of the right choices. Raises ArgumentError for inputs without that axis.
    Source: transformers' `SqueezeBertForMultipleChoice`.

    >>> config = SqueezeBertConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1)
    >>> SqueezeBertForMultipleChoice(config)(torch.tensor([[[101, 7592, 102], [101, 2088, 102]]])).logits.shape
    torch.Size([1, 2])
    """

    output_class = MultipleChoiceModelOutput

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, 1)
        self.init_weights()

    def _encode(self, *inputs: Tensor | None, **options: Any) -> BaseModelOutputWithPooling:
        """Every choice as a sequence of its own; pooler_output is [batch, choices, channels]."""
        given = inputs[-1] if inputs[0] is None else inputs[0]
        if not isinstance(given, Tensor) or given.dim() < 2:
            raise ArgumentError(
                "expected input_ids [batch, choices, tokens], or inputs_embeds with channels after that"
            )
        joined = [
            _join_choices(name, value, given, dims)
            for (name, dims), value in zip(AXES.items(), inputs, strict=True)
        ]
        encoded = super()._encode(*joined, **options)
        assert encoded.pooler_output is not None
        encoded.pooler_output = encoded.pooler_output.unflatten(0, given.shape[:2])
        return encoded

    def _logits(self, encoded: BaseModelOutputWithPooling) -> Tensor:
        return self.classifier(self.dropout(encoded.pooler_output)).squeeze(-1)


def _join_choices(name: str, value: Tensor | None, given: Tensor, dims: int) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise ArgumentError(f"{name} is a {type(value).__name__}, expected a tensor")
    if value.dim() != dims or value.shape[:2] != given.shape[:2]:
        leading = f"[{given.shape[0]}, {given.shape[1]}, ...]"
        raise ArgumentError(f"{name} has shape {list(value.shape)}, expected {dims} dimensions {leading}")
    return value.flatten(0, 1)


class SqueezeBertForTokenClassification(_WithLabels):
    """Classifies every token.

    logits: [batch, tokens, num_labels], in the model's dtype. labels: [batch, tokens] class indices, -100 where a
    token doesn't count.
    Source: transformers' `SqueezeBertForTokenClassification`.

    >>> config = SqueezeBertConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1, num_labels=5)
    >>> SqueezeBertForTokenClassification(config)(torch.tensor([[101, 7592, 102]])).logits.shape
    torch.Size([1, 3, 5])
    """

    output_class = TokenClassifierOutput

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.init_weights()

    def _logits(self, encoded: BaseModelOutputWithPooling) -> Tensor:
        return self.classifier(self.dropout(encoded.last_hidden_state))


class SqueezeBertForQuestionAnswering(_WithHead):
    """Finds the first and the last token of an answer.

    start_logits, end_logits: [batch, tokens], in the model's dtype. Raises ConfigError unless num_labels is 2.
    Source: transformers' `SqueezeBertForQuestionAnswering`.

    >>> config = SqueezeBertConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1)
    >>> SqueezeBertForQuestionAnswering(config)(torch.tensor([[101, 7592, 102]])).start_logits.shape
    torch.Size([1, 3])
    """

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__(config)
        if self.config.num_labels != 2:
            raise ConfigError(
                f"config field num_labels is {self.config.num_labels}, expected 2: an answer's start and end"
            )
        self.qa_outputs = nn.Linear(self.config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: Tensor | Sequence[Tensor | None] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """start_positions, end_positions: [batch] token indices, both or neither; see `losses.span_loss`."""
        if (start_positions is None) != (end_positions is None):
            missing = "start_positions" if start_positions is None else "end_positions"
            raise ArgumentError(f"{missing} is None, expected start_positions and end_positions together")
        encoded = self._encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            head_mask=head_mask,
        )
        logits = self.qa_outputs(encoded.last_hidden_state)
        start_logits, end_logits = (each.contiguous() for each in logits.unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._returned(output, return_dict)
