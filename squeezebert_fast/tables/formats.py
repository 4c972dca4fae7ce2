"""Rows of a file in each format: a mapping from columns to values, and where the row stands."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeezebert_fast.errors import InputError
from squeezebert_fast.tables import json_lists, squad_rows
from squeezebert_fast.tables.columns import Wanted, check
from squeezebert_fast.tables.dataset_directory import read_rows
from squeezebert_fast.tables.sources import STDIN, Source

FORMATS = ("text", "csv", "tsv", "jsonl", "json", "parquet", "dataset")
PARQUET_ROWS = 1024  # read at a time
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field: the most that the csv module takes on every system
DELIMITERS = (";", "\t", "|")
"""What may part a CSV's fields instead of a comma, where its header has no comma."""

DELIMITER_LINE = re.compile(r"sep=(.)\r?\n?")
"""What Excel writes before the header."""

Found = Iterator[tuple[dict[str, Any], str]]
"""Rows and their places."""


def text(source: Source, wanted: Wanted) -> Found:
    """A line each; whatever the one column is called."""
    return _text(source.lines(), source, wanted)


def delimited(source: Source, wanted: Wanted, delimiter: str | None = None) -> Found:
    """CSV with a header (RFC 4180: a quoted field may hold line ends). delimiter: by default as the header says."""
    return _csv(source.lines(), source, wanted, delimiter)


def tabbed(source: Source, wanted: Wanted) -> Found:
    """TSV: a header and no quoting, so that every character but tabs and line ends is one of a field."""
    return _tsv(source.lines(), source, wanted)


def json_lines(source: Source, wanted: Wanted) -> Found:
    """An object a line."""
    return _json_lines(source.lines(), source, wanted)


def json_list(source: Source, wanted: Wanted) -> Found:
    """One list of objects, or the questions of a SQuAD file, which is read as a whole."""
    return _json_list(source.pieces(), source, wanted)


def unnamed(source: Source, wanted: Wanted, has_columns: bool) -> Found:
    """What a file holds whose format nobody says: JSON where it begins so, a table where its first line has the column.

    has_columns: whether the column was named, so that it may be the only one, and a file without it is an error.
    """
    lines = source.lines()
    first = next(lines, "")
    whole = itertools.chain([first], lines) if first else iter(())
    start = first.strip()
    if start == "[" or start.startswith("[{"):
        return _json_list(whole, source, wanted)
    if start.startswith("{") and _is_object(start):
        return _json_lines(whole, source, wanted)
    if any(wanted.columns[0] in parts for parts in _headers(first) if has_columns or len(parts) > 1):
        return _csv(whole, source, wanted, None)
    if has_columns:
        raise InputError(
            f"{source.name} is read as lines of text, which have no columns (see --input-format)"
        )
    return _text(whole, source, wanted)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _text(lines: Iterator[str], source: Source, wanted: Wanted) -> Found:
    (name,) = wanted.columns
    for number, line in enumerate(lines, 1):
        yield {name: _without_end(line)}, f"{source.name}, line {number}"


def _csv(lines: Iterator[str], source: Source, wanted: Wanted, delimiter: str | None) -> Found:
    csv.field_size_limit(LONGEST_FIELD)  # of the whole process, and Python's own is 128 KiB
    before, first = 0, next(lines, "")
    if match := DELIMITER_LINE.fullmatch(first):
        delimiter = delimiter or match[1]
        before, first = 1, next(lines, "")
    parted_by = delimiter or _delimiter_of(first)
    rows = csv.reader(itertools.chain([first], lines), strict=True, delimiter=parted_by)

    def numbered() -> Iterator[tuple[list[str], int]]:
        try:
            yield from ((row, before + rows.line_num) for row in rows if row)
        except csv.Error as error:
            raise InputError(f"{source.name}, line {before + rows.line_num}: {error}") from error

    yield from _with_header(numbered(), source, wanted)


def _tsv(lines: Iterator[str], source: Source, wanted: Wanted) -> Found:
    stripped = ((_without_end(line), number) for number, line in enumerate(lines, 1))
    yield from _with_header(((line.split("\t"), number) for line, number in stripped if line), source, wanted)


def _with_header(rows: Iterator[tuple[list[str], int]], source: Source, wanted: Wanted) -> Found:
    """Rows of the fields of each, the first of which are the columns' names, and of the line that each ends in."""
    header, _ = next(rows, ([], 0))
    names = wanted.names(header, source.name) if header else []
    places = [(name, header.index(name)) for name in names]
    for row, number in rows:
        if len(row) != len(header):
            fields = f"{len(row)} fields, expected {len(header)} as in the header"
            raise InputError(f"{source.name}, line {number}: {fields}")
        yield {name: row[place] for name, place in places}, f"{source.name}, line {number}"


def _delimiter_of(header: str) -> str:
    """A comma, unless the header has none and is parted by another."""
    by_comma, *others = _headers(header)
    most = max(others, key=len)
    return "," if len(by_comma) > 1 or len(most) == 1 else DELIMITERS[others.index(most)]


def _headers(line: str) -> list[list[str]]:
    """The columns of a header as they would be by comma and by each of DELIMITERS."""
    return [_fields(line, delimiter) for delimiter in (",", *DELIMITERS)]


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [""])
    except csv.Error:  # any line of text may come here
        return [""]


def _json_lines(lines: Iterator[str], source: Source, wanted: Wanted) -> Found:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{source.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: a JSON {type(row).__name__}, expected an object")
        _check_names(row, wanted, place)
        yield row, place


def _json_list(pieces: Iterator[str], source: Source, wanted: Wanted) -> Found:
    first = next((piece for piece in pieces if piece.strip()), "")
    whole = itertools.chain([first], pieces)
    if first.lstrip().startswith("{"):
        spelled = "".join(whole)
        try:
            rows = squad_rows.questions(json.loads(spelled), source.name)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source.name} is not valid JSON: {error}") from error
    else:
        rows = json_lists.items(whole, source.name)
    for number, row in enumerate(rows, 1):
        place = f"{source.name}, item {number}"
        _check_names(row, wanted, place)
        yield row, place


def _check_names(row: dict[str, Any], wanted: Wanted, place: str) -> None:
    for name in wanted.columns:
        if name not in row:
            check(name, list(row), place)


def parquet(source: Source, wanted: Wanted) -> Found:
    """A parquet file, some rows at a time and of the wanted columns alone."""
    if source.path == STDIN:
        raise InputError("parquet can't be read from stdin, since its index is at the end; give a file")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"reading {source.name} needs pyarrow ({error}); pip install squeezebert-fast[parquet]"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(source.path) as file:
            names = wanted.names(file.schema_arrow.names, source.name)
            bytes_a_row = (source.size or 0) / max(file.metadata.num_rows, 1)
            number = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=names):
                for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                    number += 1
                    source.done = round(number * bytes_a_row)
                    yield dict(zip(names, values, strict=True)), f"{source.name}, row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{source.name} is not a readable parquet file: {error}") from error


def dataset(source: Source, wanted: Wanted) -> Found:
    """A directory that the datasets library wrote."""

    def choose(header: list[str]) -> list[str]:
        return wanted.names(header, source.name)

    for number, row in enumerate(read_rows(Path(source.path), choose), 1):
        yield row, f"{source.name}, row {number}"


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
