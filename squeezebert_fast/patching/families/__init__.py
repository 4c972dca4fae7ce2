"""The kinds of models that `patch` knows: one file a family, one row of `FAMILIES`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from torch import Tensor, nn

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.patching.families import (
    own,
    transformers_bert,
    transformers_distilbert,
    transformers_roberta,
    transformers_squeezebert,
)
from squeezebert_fast.patching.families.family import Embeddings, Family, is_whole

FAMILIES: tuple[ModuleType, ...] = (
    own,
    transformers_squeezebert,
    transformers_bert,
    transformers_roberta,
    transformers_distilbert,
)
"""Each has ENCODERS, the modules and names of its encoder classes; HOMES, the modules of the classes whose dense layers
are accelerated too; WORD_HEADS, by the name of a masked language model's class there, the modules of its head in the
order in which they run; and `family(encoder_class)`, called once a class, when its module is loaded: none is imported.
"""

_ROWS = {encoder: module for module in FAMILIES for encoder in module.ENCODERS}
_HOMES = frozenset(home for module in FAMILIES for home in module.HOMES)
_WORD_HEADS: dict[tuple[str, str], tuple[str, ...]] = {
    (home, name): head
    for module in FAMILIES
    for home in module.HOMES
    for name, head in module.WORD_HEADS.items()
}

_known: dict[type[nn.Module], Family] = {}
_known_embeddings: dict[type[nn.Module], Embeddings] = {}


def family_of(encoder: type[nn.Module]) -> Family | None:
    """The family of a class that is, or extends, an encoder of one; None for any other class."""
    for cls in encoder.__mro__:
        if cls in _known:
            return _known[cls]
        row = _ROWS.get((cls.__module__, cls.__name__))
        if row is not None:
            _known[cls] = row.family(cls)
            return _known[cls]
    return None


def embeddings_of(cls: type[nn.Module]) -> Embeddings | None:
    """What is known of a class that is a family's embeddings itself; None for any other class."""
    if cls not in _known_embeddings:
        for home, name in _ROWS:
            family = family_of(getattr(sys.modules[home], name)) if cls.__module__ == home else None
            if family is not None and family.embeddings is not None and family.embeddings.cls is cls:
                _known_embeddings[cls] = family.embeddings
    return _known_embeddings.get(cls)


def parts_around(module: nn.Module) -> Iterator[nn.Module]:
    """The children of poolers and heads: of a module whose class is from one of the families."""
    cls = type(module)
    dense = cls.__name__ == "Dense" and cls.__module__.startswith("sentence_transformers.")
    if (dense or cls.__module__ in _HOMES) and is_whole(cls):
        yield from module.children()


def dense_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """Those of `parts_around` that are nn.Linear."""
    yield from (child for child in parts_around(module) if isinstance(child, nn.Linear))


def word_logits(model: nn.Module, hidden_states: Tensor) -> Tensor:
    """What a masked language model makes of tokens' last hidden states: logits [..., words].

    hidden_states: [..., channels], of `model.base_model`'s `last_hidden_state`. With those of all tokens this is what
    the model's own forward gives. It is for those few of them that are to be predicted: the head has a product with
    every word for each, and costs more than the encoder of a small model.
    Raises ArgumentError for a model that isn't a masked language model of one of the families.
    """
    for cls in type(model).__mro__:
        if names := _WORD_HEADS.get((cls.__module__, cls.__name__)):
            for name in names:
                hidden_states = getattr(model, name)(hidden_states)
            return hidden_states
    known = ", ".join(sorted({name for _, name in _WORD_HEADS}))
    raise ArgumentError(f"model is a {type(model).__name__}, expected a masked language model: {known}")
