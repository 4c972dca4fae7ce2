"""Examples of a table: where a row has what, and all of the row where it is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from squeezebert_fast.errors import InputError
from squeezebert_fast.tables.blanks import LEFT_OUT, Blanks, any_blank
from squeezebert_fast.tables.columns import ALL
from squeezebert_fast.tables.rows import DEFAULT_COLUMN, Rows

DEFAULT_LABEL_COLUMN = "label"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of text and label. format, delimiter: as `Rows` takes them.

    whole_rows: whether examples are to have all columns besides, for those who want to find them again.
    """

    text: str = DEFAULT_COLUMN
    label: str = DEFAULT_LABEL_COLUMN
    format: str | None = None
    delimiter: str | None = None
    whole_rows: bool = False


class ExampleRow(NamedTuple):
    """The wanted columns of a row, where it stands, and all of its columns if they are wanted."""

    values: tuple[str, ...]
    place: str
    whole: dict[str, Any]


class ExampleRows(Rows):
    """The rows of a table of examples, without those that have an empty text, of which a warning tells.

    A null is an empty text, but no label. names: of the columns of texts, before the label. What it raises is as for
    `Rows`, and InputError where no row is left.
    """

    empty_nulls = True

    def __init__(self, source: str, names: Sequence[str], columns: Columns) -> None:
        self.kept = (ALL,) if columns.whole_rows else ()
        super().__init__(source, [*names, columns.label], columns.format, {columns.label}, columns.delimiter)

    def __iter__(self) -> Iterator[ExampleRow]:
        blanks, count = Blanks(), 0
        for values, place, whole, _ in self._rows:
            if any_blank(values[:-1]):
                blanks.note(place)
            else:
                count += 1
                yield ExampleRow(values, place, dict(whole))
        if not count:
            raise InputError(f"{self.name} holds no texts but empty ones")
        blanks.warn(LEFT_OUT)
