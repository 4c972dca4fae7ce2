"""Which kind of answers a model gives."""

from __future__ import annotations

from squeezebert_fast.answering.base import Answers
from squeezebert_fast.answering.choices import Choices
from squeezebert_fast.answering.entities import Entities
from squeezebert_fast.answering.labels import Labels
from squeezebert_fast.answering.spans import Spans
from squeezebert_fast.errors import ConfigError
from squeezebert_fast.pretrained import Pretrained

KINDS: dict[str, type[Answers]] = {
    "SequenceClassification": Labels,
    "TokenClassification": Entities,
    "QuestionAnswering": Spans,
    "MultipleChoice": Choices,
}
"""The kind of answers of each head, as names of classes end after `For`."""

INSTEAD = {"MaskedLM": "fill-mask", "PreTraining": "fill-mask", "": "embed"}
"""The command for models of other heads."""


def kind_of(stored: Pretrained) -> type[Answers]:
    """The kind of answers that a model gives. Raises ConfigError for one without a head for a task.

    Where the configuration names no class, it is sequence classification, or loading says what is missing.
    """
    architecture = stored.architecture
    if architecture is None:
        return Labels
    head = architecture.partition("For")[2]
    if head in KINDS:
        return KINDS[head]
    hint = f"; {INSTEAD[head]} is for it" if head in INSTEAD else ""
    kinds = ", ".join(kind.name for kind in KINDS.values())
    raise ConfigError(f"{stored.name} is a {architecture}, expected a model for one of {kinds}{hint}")
