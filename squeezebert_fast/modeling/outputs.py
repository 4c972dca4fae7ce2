"""What the models return: transformers' output fields, as attribute, key, index, slice and tuple."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


class ModelOutput(OrderedDict[str, Any]):
    """Base of the outputs: a dataclass whose fields, but for None, are also an ordered dictionary's items.

    Like transformers' `ModelOutput`: `output.logits`, `output["logits"]`, `output[0]` and `output[:2]` count
    only what is present, `output.to_tuple()` drops None, iteration goes over the names. Being a dictionary
    that can be rebuilt from its items, it passes through DataParallel; being a pytree node, through
    torch.export and DDP.

    >>> import torch
    >>> MaskedLMOutput(logits=torch.ones(1)).to_tuple()
    (tensor([1.]),)
    """

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output)),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__name__}",
        )

    def __post_init__(self) -> None:
        first = _field_names(self)[0]
        items = getattr(self, first)
        if isinstance(items, (Mapping, Iterator)):  # how DataParallel and accelerate rebuild a dictionary
            setattr(self, first, None)
            for name, value in dict(items).items():
                setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            super().__delitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __delitem__(self, name: str) -> None:
        setattr(self, name, None)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in _field_names(self))

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that aren't None, in order: what `return_dict=False` returns."""
        return tuple(self[name] for name in _field_names(self) if name in self)


def _field_names(output: ModelOutput) -> list[str]:
    return [f.name for f in dataclasses.fields(output)]  # type: ignore[arg-type]  # each subclass is one


@dataclass
class BaseModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: [batch, tokens, channels]. hidden_states: the embeddings and each layer's output, the
    same shape, or None. attentions: each layer's masked scores *before* softmax, [batch, heads, queries,
    keys], or None.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BaseModelOutputWithPooling(ModelOutput):
    """`BaseModelOutput` and pooler_output: [batch, channels], the first token through dense and tanh."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """loss: a scalar, or None without labels. logits: [batch, tokens, vocab_size]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """loss: a scalar, or None without labels. logits: [batch, num_labels]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """loss: a scalar, or None without labels. logits: [batch, choices]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """loss: a scalar, or None without labels. logits: [batch, tokens, num_labels]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """loss: a scalar, or None without positions. start_logits, end_logits: [batch, tokens]."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
