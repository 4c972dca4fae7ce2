"""Texts and tables from files or stdin, a row at a time, each problem named with its place."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from squeezebert_fast.errors import ColumnError, InputError, check_among
from squeezebert_fast.tables import delimiters, formats
from squeezebert_fast.tables.blanks import any_blank
from squeezebert_fast.tables.columns import Wanted
from squeezebert_fast.tables.dataset_directory import is_dataset
from squeezebert_fast.tables.formats import FORMATS
from squeezebert_fast.tables.sources import Source, files_of, holds_undecoded, name_of, suffix_format
from squeezebert_fast.tables.unreadable import LEFT_OUT, SKIP, STOP, Unreadable

DEFAULT_COLUMN = "text"
READERS = {
    "text": formats.text,
    "csv": formats.delimited,
    "tsv": formats.tabbed,
    "jsonl": formats.json_lines,
    "json": formats.json_list,
    "parquet": formats.parquet,
    "dataset": formats.dataset,
}
PARTED = (None, "csv", "tsv", "text")
"""The formats that --delimiter makes CSV of."""
NOT_UNICODE = "holds a byte that isn't UTF-8, or a lone surrogate"
"""What is said of a value where such bytes pass on as lone surrogates (`Source`)."""


class _Read(NamedTuple):
    """What was read of a row; problem: why it can't be, and where it stands, or nothing."""

    values: tuple[str, ...]
    place: str
    kept: Mapping[str, Any]
    problem: str = ""


class Row(NamedTuple):
    """The wanted columns of one row, and where it stands, for errors about it."""

    values: tuple[str, ...]
    place: str


class Rows:
    """The rows of a file or of several, an iterator in constant memory.

    source: a path, a directory, a glob ("parts/*.csv"), or "-" for stdin. Several files follow one another in the
        order of their names. What is compressed as .gz, .bz2, .xz or .zst is read as what is in it.
    columns: of a table, the wanted ones; of text, one name, which means nothing.
    format: one of FORMATS, by default as the suffix says, or of text as the first line looks: text, a line each; csv
        with a header (RFC 4180: a quoted field may hold line ends); tsv with a header and no quoting; jsonl, an
        object a line; json, one list of objects; parquet; dataset, a directory of the datasets library, which needs
        no naming. Text is UTF-8, with or without a byte order mark.
    scalars: those columns that may hold a JSON number or boolean too, given as its text: labels.
    delimiter: what parts a CSV's fields, a character or its name (`delimiters.NAMES`); by default as the file looks.
    on_error: what becomes of a row that can't be read, one of `unreadable.ON_ERROR`. What is wrong with a file from its
        start, such as a missing column, is an error all the same.

    `size` is the number of bytes that there are, None if unknown; `done` is how many of them have been read.

    Raises InputError, on construction or on the way, naming file and line: what can't be read, a missing
    column, a malformed line, a value that isn't text, no records at all.
    """

    empty_nulls = False  # whether a null is a text without characters, and no error
    kept: Sequence[str] = ()
    pair: str | None = None  # of the columns that of a second text
    must_hold_some = True  # whether no row at all is an error

    def __init__(
        self,
        source: str,
        columns: Sequence[str],
        format: str | None = None,
        scalars: Collection[str] = (),
        delimiter: str | None = None,
        on_error: str = STOP,
    ) -> None:
        self.unreadable = Unreadable(on_error)
        self.source, self.format, self.scalars = source, format, scalars
        self.name = name_of(source)
        self.columns = list(columns)
        self.delimiter = None if delimiter is None else delimiters.named(delimiter)
        self._check()
        self.files = files_of(source, format)
        sizes = [Source(file).size for file in self.files]
        self.size = None if None in sizes else sum(size or 0 for size in sizes)
        self._current, self._before = self._source(self.files[0]), 0
        rows = self._all_rows()
        first = next(rows, None)  # most that can be wrong shows in it, before a model is loaded
        for file in self.files[1:]:
            next(self._rows_of(self._source(file)), None)
        if first is None and self.must_hold_some:
            why = f" that can be read ({self.unreadable.first})" if self.unreadable.count else ""
            raise InputError(f"{self.name} holds no texts{why}")
        self._rows = rows if first is None else itertools.chain([first], rows)

    @property
    def done(self) -> int:
        """How many bytes have been read."""
        return self._before + self._current.done

    @property
    def _has_columns(self) -> bool:
        """Whether the columns mean something, so that what has none is an error."""
        return len(self.columns) > 1 or bool(self.kept)

    def _check(self) -> None:
        if self.format is not None:
            check_among("the input format", self.format, FORMATS, InputError)
        if self.format == "dataset" and not is_dataset(Path(self.source)):
            raise InputError(f"{self.source} is not a directory that the datasets library saved")

    def __iter__(self) -> Iterator[Any]:  # of Row, unless a subclass makes something of it
        return (Row(read.values, read.place) for read in self._rows)

    def _source(self, file: str) -> Source:
        return Source(file, strict=self.unreadable.on_error == STOP)

    def _all_rows(self) -> Iterator[_Read]:
        for file in self.files:
            self._before += self._current.done if self._current.path != file else 0
            self._current = self._source(file)
            for read in self._rows_of(self._current):
                if read.problem:
                    self.unreadable.note(read.problem)
                    if self.unreadable.on_error == SKIP:
                        continue
                yield read

    def _rows_of(self, source: Source) -> Iterator[_Read]:
        """The file's rows, with those that can't be read unless that is an error."""
        wanted = Wanted(tuple(self.columns), tuple(self.kept), self._has_columns, self.pair)
        found = self._found(source, wanted)
        nothing = tuple("" for _ in self.columns)
        is_strict, begun = self.unreadable.on_error == STOP, False
        known: Mapping[str, Any] = {}
        while True:
            try:
                row, place = next(found, (None, ""))
            except InputError as error:
                if is_strict or not begun:
                    raise
                yield _Read(nothing, source.name, known or wanted.kept_of_none(), f"{error}{LEFT_OUT}")
                return
            if row is None:
                return
            kept: Mapping[str, Any] = {}
            try:
                if isinstance(row, InputError):
                    raise row
                kept = wanted.kept_of(row, place)
                known = known or dict.fromkeys(kept)
                if not is_strict and (odd := next(filter(holds_undecoded, kept.items()), None)):
                    kept = {**kept, odd[0]: None}
                    raise InputError(f"{place}: {odd[0]!r} {NOT_UNICODE}, expected valid Unicode")
                values = zip(self.columns, wanted.values_of(row, place), strict=True)
                read = _Read(tuple(self._value(value, name, place) for name, value in values), place, kept)
            except InputError as error:
                if is_strict or (isinstance(error, ColumnError) and not begun):
                    raise
                read = _Read(nothing, place, kept or known or wanted.kept_of_none(), str(error))
            begun = True
            yield read

    def _found(self, source: Source, wanted: Wanted) -> formats.Found:
        format = self.format or ("dataset" if is_dataset(Path(source.path)) else suffix_format(source.path))
        if self.delimiter is not None:
            if format not in PARTED:
                raise InputError(f"{source.name} is read as {format}, which has no delimiter")
            return formats.delimited(source, wanted, self.delimiter)
        if format is None or (format == "text" and self.format is None):
            return formats.unnamed(source, wanted)
        return READERS[format](source, wanted)

    def _value(self, value: Any, column: str, place: str) -> str:
        if column in self.scalars and isinstance(value, (bool, int, float)):
            if isinstance(value, float) and not math.isfinite(value):  # how pandas writes that there is none
                raise InputError(f"{place}: {column!r} is {value}, expected a label")
            return json.dumps(value)
        is_null = value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes both
        if is_null and self.empty_nulls and column not in self.scalars:
            return ""
        if not isinstance(value, str):
            kind = "null" if is_null else type(value).__name__
            raise InputError(f"{place}: {column!r} is {kind}, expected a string")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            found = "holds a lone surrogate" if self.unreadable.on_error == STOP else NOT_UNICODE
            raise InputError(f"{place}: {column!r} {found}, expected valid Unicode")
        return value


@dataclass(frozen=True)
class Record:
    """What a model is asked about: a text, a pair, or a text with its choices.

    place: where it stands, for messages about it. kept: values of its row that go with the answer. problem: why its row
    can't be read, with the place, or nothing; its texts are empty then.
    """

    text: str
    pair: str | None = None
    choices: tuple[str, ...] = ()
    place: str = field(default="", compare=False)
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False)
    problem: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """Its texts by name, as they stand beside an answer unless columns are kept."""
        return {"text": self.text} | ({} if self.pair is None else {"pair": self.pair})

    @cached_property
    def is_blank(self) -> bool:
        """Whether one of its texts has no character that shows, so that there is nothing to ask about."""
        return any_blank([self.text, *self.choices] if self.pair is None else [self.text, self.pair])


class Input(Rows):
    """The texts of a file, each a Record. A null among them is a text without characters.

    column, pair_column: of a table, by default `default_column` and none. choice_columns: those of a text's choices.
    keep: the columns whose values go with the answers, see `Wanted`. The rest, and what it raises, as for `Rows`.
    """

    empty_nulls = True

    def __init__(
        self,
        source: str,
        format: str | None = None,
        column: str | None = None,
        pair_column: str | None = None,
        *,
        default_column: str = DEFAULT_COLUMN,
        choice_columns: Sequence[str] = (),
        keep: Sequence[str] = (),
        delimiter: str | None = None,
        on_error: str = STOP,
    ) -> None:
        self.named_columns = column is not None or pair_column is not None
        self.kept = keep
        pair = [] if pair_column is None else [pair_column]
        self.pair = pair_column
        columns = [default_column if column is None else column, *pair, *choice_columns]
        super().__init__(source, columns, format, delimiter=delimiter, on_error=on_error)

    @property
    def _has_columns(self) -> bool:
        return self.named_columns or super()._has_columns

    def __iter__(self) -> Iterator[Record]:
        for (text, *others), place, kept, problem in self._rows:
            if self.pair is not None:
                yield Record(text, others[0], place=place, kept=kept, problem=problem)
            else:
                yield Record(text, choices=tuple(others), place=place, kept=kept, problem=problem)
