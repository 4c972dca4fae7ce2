"""Texts and tables from a file or stdin, a row at a time, each problem named with its place."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from squeezebert_fast.errors import ColumnError, InputError
from squeezebert_fast.tables.dataset_directory import is_dataset, read_rows

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""The format of a file by its suffix; any other is text, a line each."""

FORMATS = ("text", "csv", "tsv", "jsonl", "parquet", "dataset")
DEFAULT_COLUMN = "text"
STDIN = "-"
PARQUET_ROWS = 1024  # read at a time
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field: the most that the csv module takes on every system


def suffix_format(source: str) -> str:
    """The format that a file's suffix says."""
    return SUFFIXES.get(Path(source).suffix.lower(), "text")


class Record(NamedTuple):
    """One text, or a pair."""

    text: str
    pair: str | None = None


class Row(NamedTuple):
    """The wanted columns of one row, and where it stands, for errors about it."""

    values: tuple[str, ...]
    place: str


class Rows:
    """The rows of a file, an iterator in constant memory.

    source: a path, or "-" for stdin.
    columns: of a table, the wanted ones; of text, one name, which means nothing.
    format: one of FORMATS, by default as the suffix says: text, a line each; csv with a header (RFC 4180: a
        quoted field may hold line ends); tsv with a header and no quoting; jsonl, an object a line; parquet;
        dataset, a directory of the datasets library, which needs no naming.
        Text is UTF-8, with or without a byte order mark.
    scalars: those columns that may hold a JSON number or boolean too, given as its text: labels.

    `size` is the number of bytes (of a parquet file: rows) that there are, None if unknown; `done` is how
    many of them have been read.

    Raises InputError, on construction or on the way, naming file and line: what can't be read, a missing
    column, a malformed line, a value that isn't text, no records at all.
    """

    def __init__(
        self,
        source: str,
        columns: Sequence[str],
        format: str | None = None,
        scalars: Collection[str] = (),
    ) -> None:
        self.source = source
        self.name = "stdin" if source == STDIN else source
        self.format = format or ("dataset" if is_dataset(Path(source)) else None) or suffix_format(source)
        self.columns, self.scalars = list(columns), scalars
        self.size: int | None = None
        self.done = 0
        if self.format not in FORMATS:
            raise InputError(f"the input format is {self.format!r}, expected one of {', '.join(FORMATS)}")
        self._check_columns()
        if source != STDIN:
            if not Path(source).exists():
                raise InputError(f"{source} doesn't exist")
            if Path(source).is_dir() != (self.format == "dataset"):
                if self.format == "dataset":
                    raise InputError(f"{source} is not a directory that the datasets library saved")
                raise InputError(f"{source} is a directory, expected a file of texts, or what datasets saved")
            self.size = None if self.format == "dataset" else os.path.getsize(source) or None
        readers = {
            "text": self._text,
            "jsonl": self._jsonl,
            "parquet": self._parquet,
            "dataset": self._dataset,
        }
        rows = readers.get(self.format, self._delimited)()
        first = next(rows, None)  # most that can be wrong shows in it, before a model is loaded
        if first is None:
            raise InputError(f"{self.name} holds no texts")
        self._rows = itertools.chain([first], rows)

    def _check_columns(self) -> None:
        if self.format == "text" and len(self.columns) > 1:
            raise InputError(
                f"{self.name} is read as lines of text, which have no columns (see --input-format)"
            )

    def __iter__(self) -> Iterator[Any]:  # of Row, unless a subclass makes something of it
        return self._rows

    def _lines(self) -> Iterator[str]:
        try:
            with nullcontext(sys.stdin.buffer) if self.source == STDIN else open(self.source, "rb") as stream:
                for number, line in enumerate(stream, 1):
                    self.done += len(line)
                    try:
                        yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                    except UnicodeDecodeError as error:
                        byte = line[error.start]
                        raise InputError(
                            f"{self.name}, line {number}: the byte 0x{byte:02x} is not UTF-8 text"
                        ) from error
        except OSError as error:
            raise InputError(f"{self.name} can't be read: {error.strerror}") from error

    def _text(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines(), 1):
            yield Row((_without_end(line),), f"{self.name}, line {number}")

    def _delimited(self) -> Iterator[Row]:
        rows = self._csv_rows() if self.format == "csv" else self._tsv_rows()
        header, _ = next(rows, ([], 0))
        places = [self._place(column, header) for column in self.columns] if header else []
        for row, number in rows:
            if len(row) != len(header):
                fields = f"{len(row)} fields, expected {len(header)} as in the header"
                raise InputError(f"{self.name}, line {number}: {fields}")
            yield Row(tuple(row[place] for place in places), f"{self.name}, line {number}")

    def _csv_rows(self) -> Iterator[tuple[list[str], int]]:
        """Each row's fields, and the line that it ends in. A blank line is no row."""
        csv.field_size_limit(LONGEST_FIELD)  # of the whole process, and Python's own is 128 KiB
        rows = csv.reader(self._lines(), strict=True)
        try:
            yield from ((row, rows.line_num) for row in rows if row)
        except csv.Error as error:
            raise InputError(f"{self.name}, line {rows.line_num}: {error}") from error

    def _tsv_rows(self) -> Iterator[tuple[list[str], int]]:
        """The same of a file without quoting, where every other character is as it is: a tab is a tab."""
        for number, line in enumerate(self._lines(), 1):
            if text := _without_end(line):
                yield text.split("\t"), number

    def _place(self, column: str, header: list[str]) -> int:
        if header.count(column) != 1:
            number = "no column" if column not in header else "more than one column"
            raise ColumnError(f"{self.name} has {number} {column!r}; it has {', '.join(header)}", column)
        return header.index(column)

    def _jsonl(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            place = f"{self.name}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{place}: a JSON {_kind(row)}, expected an object")
            yield Row(tuple(self._value(row, column, place) for column in self.columns), place)

    def _value(self, row: dict[str, Any], column: str, place: str) -> str:
        if column not in row:
            raise ColumnError(f"{place}: no {column!r}; it has {', '.join(row)}", column)
        value = row[column]
        if column in self.scalars and isinstance(value, (bool, int, float)):
            if isinstance(value, float) and not math.isfinite(value):  # how pandas writes that there is none
                raise InputError(f"{place}: {column!r} is {value}, expected a label")
            return json.dumps(value)
        if not isinstance(value, str):
            raise InputError(f"{place}: {column!r} is {_kind(value)}, expected a string")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{place}: {column!r} holds a lone surrogate, expected valid Unicode")
        return value

    def _parquet(self) -> Iterator[Row]:
        if self.source == STDIN:
            raise InputError("parquet can't be read from stdin, since its index is at the end; give a file")
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(
                f"reading {self.name} needs pyarrow ({error}); pip install squeezebert-fast[parquet]"
            ) from error
        try:
            with pyarrow.parquet.ParquetFile(self.source) as file:
                self.size = file.metadata.num_rows
                for column in self.columns:
                    self._place(column, file.schema_arrow.names)
                for batch in file.iter_batches(PARQUET_ROWS, columns=self.columns):
                    for values in zip(
                        *(batch.column(name).to_pylist() for name in self.columns), strict=True
                    ):
                        self.done += 1
                        row = dict(zip(self.columns, values, strict=True))
                        place = f"{self.name}, row {self.done}"
                        yield Row(tuple(self._value(row, column, place) for column in self.columns), place)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.name} is not a readable parquet file: {error}") from error

    def _dataset(self) -> Iterator[Row]:
        for number, row in enumerate(read_rows(Path(self.source), self.columns), 1):
            place = f"{self.name}, row {number}"
            yield Row(tuple(self._value(row, column, place) for column in self.columns), place)


class Input(Rows):
    """The texts of a file, or the pairs, each a Record.

    column, pair_column: of a table, by default "text" and none. The rest, and what it raises, as for `Rows`.
    """

    def __init__(
        self,
        source: str,
        format: str | None = None,
        column: str | None = None,
        pair_column: str | None = None,
    ) -> None:
        self.named_columns = column is not None or pair_column is not None
        pair = [] if pair_column is None else [pair_column]
        super().__init__(source, [column or DEFAULT_COLUMN, *pair], format)

    def _check_columns(self) -> None:
        if self.format == "text" and self.named_columns:
            raise InputError(
                f"{self.name} is read as lines of text, which have no columns (see --input-format)"
            )

    def __iter__(self) -> Iterator[Record]:
        return (Record(*row.values) for row in self._rows)


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
