"""Which columns of a table are wanted, and what is said of one that isn't there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from squeezebert_fast.errors import ColumnError, InputError

ALL = "all"
LISTED = 20  # columns that an error names


@dataclass(frozen=True)
class Wanted:
    """columns: that each row must have. kept: that are passed on as they are, each a column's name or several with
    commas between; "all" is every column. named: whether somebody named a column, so that lines of text, which have
    none, are an error. pair: the one of `columns` that holds a second text, without which lines of text may do. header:
    of a table whose rows have one in common, as soon as it is known."""

    columns: tuple[str, ...]
    kept: tuple[str, ...] = ()
    named: bool = False
    pair: str | None = None
    header: list[str] = field(default_factory=list)

    def names(self, header: Sequence[str], place: str) -> list[str]:
        """What is to be read of a table with this header, in its order. Raises ColumnError, naming `place`."""
        self.header[:] = header
        names = list(dict.fromkeys([*self.columns, *self.kept_names(header)]))
        for name in names:
            check(name, header, place)
        return sorted(names, key=list(header).index)

    def refuse_lines(self, place: str) -> None:
        """Raise InputError for lines of text if columns were named; ColumnError where the pair's is one of them."""
        if self.named:
            said = f"{place} is read as lines of text, which have no columns (see --input-format)"
            raise InputError(said) if self.pair is None else ColumnError(said, self.pair)

    def kept_names(self, header: Sequence[str]) -> list[str]:
        """The columns that are passed on, in the order in which they were asked for."""
        names: dict[str, None] = {}
        for entry in self.kept:
            if entry == ALL:
                names |= dict.fromkeys(header)
            elif entry in header:  # a name may hold a comma
                names[entry] = None
            else:
                names |= dict.fromkeys(part.strip() for part in entry.split(",") if part.strip())
        return list(names)

    def kept_of_none(self) -> dict[str, None]:
        """What is passed on of a row that can't be read, by what is known of the others: nulls."""
        return dict.fromkeys(self.kept_names(self.header))

    def values_of(self, row: Mapping[str, Any], place: str) -> list[Any]:
        """A row's values of `columns`. Raises ColumnError, naming `place`."""
        for name in self.columns:
            if name not in row:
                check(name, list(row), place)
        return [row[name] for name in self.columns]

    def kept_of(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A row's values that are passed on. Raises ColumnError, naming `place`."""
        if not self.kept:
            return {}
        names = self.kept_names(list(row))
        for name in names:
            if name not in row:
                check(name, list(row), place)
        return {name: row[name] for name in names}


def check(name: str, header: Sequence[str], place: str) -> None:
    """Raise ColumnError unless a header has this column, once."""
    if header.count(name) == 1:
        return
    number = "more than one column" if name in header else "no column"
    more = f" and {len(header) - LISTED} more" if len(header) > LISTED else ""
    known = ", ".join(header[:LISTED])
    raise ColumnError(f"{place} has {number} {name!r}; it has {known}{more}{near(name, header)}", name)


def near(name: str, header: Sequence[str]) -> str:
    """A hint at the column that was meant, if one is called nearly so."""
    plain = {each.strip().casefold(): each for each in header}
    found = difflib.get_close_matches(name.strip().casefold(), plain, 1)
    return f"; did you mean {plain[found[0]]!r}?" if found and plain[found[0]] != name else ""
