"""What is asked of a model, described so that it travels: each worker loads the model where it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from squeezebert_fast.answering.options import AS_STORED, USUAL, AnswerOptions, EngineOptions
from squeezebert_fast.tables.rows import DEFAULT_COLUMN, Record
from squeezebert_fast.trained_with import TrainedWith

Row = dict[str, Any]

VECTOR = "vector"
"""Under which a row has the vector of its text."""


@dataclass(frozen=True)
class Loaded:
    """A model that answers.

    types: of its answers, as `answering.base.Types` has them. asked: what of a record stands beside its answer unless
    columns are kept. run: from records to each, in order, with its answer. columns: the usual ones of the text and its
    pair. choice_columns: those of a text's choices.
    """

    types: Row
    asked: Callable[[Record], Row]
    run: Callable[[Iterable[Record]], Iterator[tuple[Record, Row]]]
    columns: tuple[str, str | None]
    choice_columns: Sequence[str] = ()


class Work(Protocol):
    """A frozen dataclass of what JSON has a form for."""

    @property
    def name(self) -> str:
        """The command that does the same."""

    @property
    def model(self) -> str: ...

    @property
    def engine(self) -> EngineOptions: ...

    @property
    def batch_size(self) -> int: ...

    def load(self) -> Loaded:
        """Load and patch the model. Raises what `load_engine` raises."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model was trained for."""

    model: str
    chosen: AnswerOptions = USUAL
    engine: EngineOptions = AS_STORED
    batch_size: int = 32
    name = "predict"

    def load(self) -> Loaded:
        from squeezebert_fast.answering.predictor import Predictor

        predictor = Predictor(self.model, self.chosen)
        predictor.load(self.engine)
        return Loaded(
            predictor.answers.types,
            predictor.answers.asked,
            lambda records: predictor.run(records, self.batch_size),
            predictor.columns,
            predictor.answers.choice_columns,
        )


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Vectors of texts; the fields are arguments of `load_embedder`."""

    model: str
    prompt_name: str | None = None
    pooling: str | None = None
    engine: EngineOptions = AS_STORED
    normalize: bool = False
    pairs: bool = False
    batch_size: int = 32
    name = "embed"

    def load(self) -> Loaded:
        from squeezebert_fast.answering.base import FLOAT32
        from squeezebert_fast.answering.embedding import load_embedder

        embedder = load_embedder(
            self.model,
            self.prompt_name,
            pooling=self.pooling,
            engine=self.engine,
            normalize=self.normalize,
            pairs=self.pairs,
        )

        def run(records: Iterable[Record]) -> Iterator[tuple[Record, Row]]:
            for record, vector in embedder.run(records, self.batch_size):
                yield record, {VECTOR: vector.float().numpy()}

        usual = TrainedWith.of_model(self.model).column or DEFAULT_COLUMN
        types = {VECTOR: (FLOAT32, embedder.channels)}
        return Loaded(types, lambda record: record.asked, run, (usual, None))


def place_of(model: str) -> str:
    """The model's name, by which processes in other directories find it too: of a folder, its absolute path."""
    path = Path(os.path.expanduser(model))
    return os.path.realpath(path) if path.is_dir() else model
