"""What parts the fields of a CSV that doesn't say so: its header, its first rows and the wanted columns tell.

id;Review, long;label          ';' and ',' part this line
7;fine, thanks;good            under ';' the header has the column 'Review, long', if that is wanted; and each row
8;no;bad                       has as many fields as the header, which under ',' this last one hasn't
"""

from __future__ import annotations

import csv
from collections.abc import Sequence

from squeezebert_fast.errors import ColumnError, InputError
from squeezebert_fast.tables.columns import Wanted, near

DELIMITERS = (",", ";", "\t", "|")
"""What may part fields, the usual first."""

NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}
"""What a delimiter may be called."""

SAMPLED = 20  # lines that are looked at

IMPOSSIBLE = ('"', "\n", "\r", "\0")
"""Characters that the csv module takes for something else, or not at all."""


def named(said: str) -> str:
    """The delimiter that an option says. Raises InputError for what is none."""
    delimiter = NAMES.get(said, said)
    if len(delimiter) != 1 or delimiter in IMPOSSIBLE:
        names = ", ".join(name for name in NAMES if name.isalpha())
        raise InputError(
            f"the delimiter is {said!r}, expected one character that is no quote and no line end, or one of {names}"
        )
    return delimiter


def delimiter_of(lines: Sequence[str], wanted: Wanted, place: str) -> str:
    """What parts a file that begins with these lines, of SAMPLED at most.

    The delimiter by which the header has all wanted columns; of several, or none such, the one by which each row has
    as many fields as the header. Raises ColumnError where that doesn't tell either, naming `place`.
    """
    readings = {delimiter: _records(lines, delimiter) for delimiter in DELIMITERS}
    comma, *others = DELIMITERS
    parting = [each for each in DELIMITERS if len(readings[each][0]) > 1]
    having = [
        each
        for each in (comma, *(each for each in others if each in parting))
        if set(wanted.columns) <= set(readings[each][0])
    ]
    possible = having or parting or [comma]
    if len(possible) > 1:
        steady = [each for each in possible if len(set(map(len, readings[each]))) == 1]
        possible = steady or possible
    if len(possible) > 1:
        read = " or ".join(f"by {each!r} ({' | '.join(readings[each][0])})" for each in possible)
        unsure = (name for name in wanted.columns if any(name not in readings[each][0] for each in possible))
        column = next(unsure, wanted.columns[0])
        problem = "may have" if having else "has no"
        hint = "" if having else near(column, [name for each in possible for name in readings[each][0]])
        raise ColumnError(
            f"{place} {problem} column {column!r}: its header may be parted {read}; --delimiter says by which{hint}",
            column,
        )
    return possible[0]


def headers(line: str) -> list[list[str]]:
    """The columns of a header of one line as they would be by each of DELIMITERS."""
    return [_records([line], delimiter)[0] for delimiter in DELIMITERS]


def _records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows that these lines make, the first of which is there; without the last where it may go on behind them."""
    records: list[list[str]] = []
    try:
        records.extend(row for row in csv.reader(lines, delimiter=delimiter) if row)
    except csv.Error:  # any line of text may come here
        return records or [[""]]
    return (records[:-1] if len(records) > 1 and len(lines) >= SAMPLED else records) or [[""]]
