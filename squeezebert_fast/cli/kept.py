"""Errors about columns that nobody named: those that a model was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from squeezebert_fast.errors import ColumnError
from squeezebert_fast.trained_with import TrainedWith

COLUMN_OPTIONS = ("column", "pair_column", "choice_columns", "label_column")


@contextmanager
def kept_columns_named(model: str, kept: TrainedWith, given: Mapping[str, str | None]) -> Iterator[None]:
    """What the block reads has the columns of `kept`, but for those that options gave.

    model: what `kept` is of. given: by the options' names in Python, None where an option wasn't given.
    A ColumnError about one of `kept` says so, and which option names another.
    """
    try:
        yield
    except ColumnError as error:
        for name in COLUMN_OPTIONS:
            value = getattr(kept, name)
            if given.get(name) is None and value and error.column in (value, *value.split(",")):
                option = f"--{name.replace('_', '-')}"
                none = ", or '' for none" if name == "pair_column" else ""
                raise ColumnError(
                    f"{error}. {model} was trained with {option} {value}; give {option} for another{none}",
                    error.column,
                ) from None
        raise
