"""A model that answers what it was trained for, from records to rows of answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from squeezebert_fast.answering.base import Row
from squeezebert_fast.answering.kinds import kind_of
from squeezebert_fast.answering.options import AS_STORED, USUAL, AnswerOptions, EngineOptions
from squeezebert_fast.answering.running import leave_to_stay, load_engine, run_in_order
from squeezebert_fast.pretrained import find
from squeezebert_fast.tables.rows import Record


class Predictor:
    """The model of a directory or hub repository with its kind of answers.

    Its weights are loaded by `load`, so that options and input can be checked before. Raises what `kind_of` raises, and
    InputError for an option that doesn't go with the model.
    """

    def __init__(self, model: str, chosen: AnswerOptions = USUAL) -> None:
        self.stored = find(model)
        self.answers = kind_of(self.stored)(chosen, self.stored)
        self.columns = self._columns()

    def _columns(self) -> tuple[str, str | None]:
        """Those of the text and of its pair, unless options name others."""
        kept, (text, pair) = self.stored.trained_with, self.answers.default_columns
        return kept.column or text, kept.pair_column or pair

    def load(self, options: EngineOptions = AS_STORED) -> None:
        """Load and patch the model. Raises what `load_engine` raises."""
        engine = load_engine(
            self.answers.head,
            self.stored,
            usual_length=self.stored.trained_with.max_length,
            **dataclasses.asdict(options),
        )
        self.steps = self.answers.steps(engine)
        leave_to_stay()

    def run(self, records: Iterable[Record], batch_size: int) -> Iterator[tuple[Record, Row]]:
        """Each record with its answer, in order and in constant memory; a blank one's is null throughout."""
        for record, answer, _ in self.run_counted(records, batch_size):
            yield record, answer

    def run_counted(self, records: Iterable[Record], batch_size: int) -> Iterator[tuple[Record, Row, int]]:
        """`run`, and with each the number of its tokens that were computed."""
        for record, rows in run_in_order(records, self.steps, batch_size, lambda record: record.is_blank):
            answer = self.answers.answer(record, rows) if rows else self.answers.nothing()
            yield record, answer, sum(self.steps.length(tokens) for tokens, _ in rows)
