"""What `predict` asks of each kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.answering.running import Engine, Steps, Tokens
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.pretrained import Pretrained
from squeezebert_fast.tables.rows import DEFAULT_COLUMN, Record
from squeezebert_fast.trained_with import DEFAULT_STRIDE

Row = dict[str, Any]
"""What is written of a record: names and values, the same names for each record of a run."""

STRING, INT64, FLOAT32, FLOAT64 = "string", "int64", "float32", "float64"
Types = dict[str, Any]
"""Of each value of a row, by its name: one of the above; a list with the type of each of its items; a pair of that and
of how many there are; or a dict like this one. Any value may be null."""


class Answers(ABC):
    """The answers of one kind of model.

    name: the kind, for messages. head: this package's class, or what of another library has the same head. takes: the
    fields of AnswerOptions that mean something for it. default_columns: those of the text and of its pair. takes_pairs:
    whether there may be a pair. as_lists: whether answers are lists, which CSV has no place for.
    """

    name: ClassVar[str]
    head: ClassVar[type[SqueezeBertPreTrainedModel]]
    takes: ClassVar[frozenset[str]]
    default_columns: ClassVar[tuple[str, str | None]] = (DEFAULT_COLUMN, None)
    takes_pairs: ClassVar[bool] = False
    as_lists: bool = False

    def __init__(self, options: AnswerOptions, stored: Pretrained) -> None:
        """Raises InputError for an option that doesn't go with the model."""
        options.check(self.takes, self.name)
        self.options, self.config, self.model_name = options, stored.config(), stored.name
        self.trained_with = stored.trained_with

    @cached_property
    def labels(self) -> list[str]:
        """The configuration's labels by their ids; the number of one without a name."""
        names = self.config.id2label or {}
        return [names.get(index, str(index)) for index in range(self.config.num_labels)]

    @property
    def choice_columns(self) -> Sequence[str]:
        """The columns of a text's choices."""
        return ()

    @property
    def stride(self) -> int:
        """Tokens by which neighbouring windows overlap."""
        said = (self.options.stride, self.trained_with.stride, DEFAULT_STRIDE)
        return next(stride for stride in said if stride is not None)

    @property
    @abstractmethod
    def types(self) -> Types:
        """The names and types of an answer's values."""

    @abstractmethod
    def steps(self, engine: Engine) -> Steps:
        """How the model is asked."""

    def asked(self, record: Record) -> Row:
        """What of a record stands beside its answer unless columns are kept."""
        return record.asked

    @abstractmethod
    def answer(self, record: Record, rows: Sequence[tuple[Tokens, Tensor]]) -> Row:
        """The answer that the model's output makes."""

    def nothing(self) -> Row:
        """The answer to a record that is blank: the same names, and null for each."""
        return dict.fromkeys(self.types)


def ranked(place: int) -> str:
    """What follows the names of the answer in this place, from 1: nothing for the best."""
    return "" if place == 1 else f"_{place}"
