"""Rows of a file in each format: a mapping from columns to values, and where the row stands."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.tables import json_lists, squad_rows
from squeezebert_fast.tables.columns import Wanted
from squeezebert_fast.tables.dataset_directory import read_rows
from squeezebert_fast.tables.delimiters import SAMPLED, delimiter_of, headers
from squeezebert_fast.tables.sources import STDIN, Source

FORMATS = ("text", "csv", "tsv", "jsonl", "json", "parquet", "dataset")
PARQUET_ROWS = 1024  # read at a time
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field: the most that the csv module takes on every system
DELIMITER_LINE = re.compile(r'sep=([^"\r\n])\r?\n?')
"""What Excel writes before the header."""

OPEN_QUOTE = "unexpected end of data"
"""What the csv module says of a quoted field that isn't closed."""

LONE_RETURN = "new-line character seen in unquoted field"
"""How it begins to speak of a carriage return without a line feed."""

Found = Iterator[tuple[dict[str, Any] | InputError, str]]
"""Rows and their places. One that can't be read is an InputError, which names its place too, and others follow it; the
iterator raises one where nothing more can be read."""

Fields = Iterator[tuple[list[str] | InputError, int]]
"""The fields of each row of a table, and the line that it ends in."""


def text(source: Source, wanted: Wanted) -> Found:
    """A line each; whatever the one column is called."""
    return _text(source.lines(), source, wanted)


def delimited(source: Source, wanted: Wanted, delimiter: str | None = None) -> Found:
    """CSV with a header (RFC 4180: a quoted field may hold line ends). delimiter: by default as it looks."""
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


def unnamed(source: Source, wanted: Wanted) -> Found:
    """What a file holds whose format nobody says: JSON where it begins so, a table where its first line has the column,
    which may be the only one if it was named."""
    lines = source.lines()
    first = next(lines, "")
    whole = itertools.chain([first], lines) if first else iter(())
    start = first.strip()
    if start == "[" or start.startswith("[{"):
        return _json_list(whole, source, wanted)
    if start.startswith("{") and _is_object(start):
        return _json_lines(whole, source, wanted)
    if any(wanted.columns[0] in parts for parts in headers(first) if wanted.named or len(parts) > 1):
        return _csv(whole, source, wanted, None)
    return _text(whole, source, wanted)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _text(lines: Iterator[str], source: Source, wanted: Wanted) -> Found:
    wanted.refuse_lines(source.name)
    (name,) = wanted.columns
    for number, line in enumerate(lines, 1):
        yield {name: _without_end(line)}, f"{source.name}, line {number}"


def _csv(lines: Iterator[str], source: Source, wanted: Wanted, delimiter: str | None) -> Found:
    csv.field_size_limit(LONGEST_FIELD)  # of the whole process, and Python's own is 128 KiB
    before, start = 0, list(itertools.islice(lines, 1))
    if start and (match := DELIMITER_LINE.fullmatch(start[0])):
        delimiter = delimiter or match[1]
        before, start = 1, []
    if delimiter is None:
        start += itertools.islice(lines, SAMPLED - len(start))
        delimiter = delimiter_of(start, wanted, source.name)
    rows = csv.reader(itertools.chain(start, lines), strict=True, delimiter=delimiter)

    def numbered() -> Fields:
        ended = before
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:  # after which the reader goes on with the next line
                place, said = before + rows.line_num, str(error)
                if said == OPEN_QUOTE:  # which shows at the file's end alone
                    place, said = ended + 1, "a quoted field of this row is never closed"
                elif said.startswith(LONE_RETURN):
                    said = (
                        "a carriage return without a line feed, outside of quotes; lines end at \\n or \\r\\n"
                    )
                if place > ended + 1:  # all of it is lost, perhaps for a quote that stood there by mistake
                    said += f"; the row begins in line {ended + 1}"
                yield InputError(f"{source.name}, line {place}: {said}"), place
                ended = before + rows.line_num
                continue
            if row is None:
                return
            ended = before + rows.line_num
            if row:
                yield row, ended

    yield from _with_header(
        numbered(), source, wanted, f"; a field that holds {delimiter!r} stands in quotes"
    )


def _tsv(lines: Iterator[str], source: Source, wanted: Wanted) -> Found:
    stripped = ((_without_end(line), number) for number, line in enumerate(lines, 1))
    fields: Fields = ((line.split("\t"), number) for line, number in stripped if line)
    yield from _with_header(fields, source, wanted)


def _with_header(rows: Fields, source: Source, wanted: Wanted, too_many: str = "") -> Found:
    """Rows of the fields of each, the first of which are the columns' names.

    too_many: a hint for a row of more fields than the header.
    """
    header, _ = next(rows, ([], 0))
    if isinstance(header, InputError):
        raise header
    names = wanted.names(header, source.name) if header else []
    places = [(name, header.index(name)) for name in names]
    for row, number in rows:
        place = f"{source.name}, line {number}"
        if isinstance(row, InputError):
            yield row, place
        elif len(row) != len(header):
            fields = f"{counted(len(row), 'field')}, expected {len(header)} as in the header"
            hint = too_many if len(row) > len(header) else ""
            yield InputError(f"{place}: {fields}{hint}"), place
        else:
            yield {name: row[at] for name, at in places}, place


def _json_lines(lines: Iterator[str], source: Source, wanted: Wanted) -> Found:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{source.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield InputError(f"{place}: not valid JSON: {error}"), place
            continue
        if isinstance(row, dict):
            yield row, place
        else:
            yield InputError(f"{place}: a JSON {type(row).__name__}, expected an object"), place


def _json_list(pieces: Iterator[str], source: Source, wanted: Wanted) -> Found:
    first = next((piece for piece in pieces if piece.strip()), "")
    whole = itertools.chain([first], pieces)
    if first.lstrip().startswith("{"):
        spelled = "".join(whole)
        try:
            rows = squad_rows.questions(json.loads(spelled), source.name)
        except (ValueError, RecursionError) as error:
            lines = _is_object(spelled.lstrip().partition("\n")[0])
            hint = "; --input-format jsonl reads an object a line" if lines else ""
            raise InputError(f"{source.name} is not valid JSON: {error}{hint}") from error
    else:
        rows = json_lists.items(whole, source.name)
    for number, row in enumerate(rows, 1):
        yield row, f"{source.name}, item {number}"


def parquet(source: Source, wanted: Wanted) -> Found:
    """A parquet file, some rows at a time and of the wanted columns alone."""
    if source.path == STDIN:
        raise InputError(
            f"parquet can't be read from {source.name}, since its index is at the end; give a file"
        )
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
