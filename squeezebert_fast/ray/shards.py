"""Shards: consecutive rows of one input file, which are read, computed, written and, after a fault, repeated as one.

A shard is known by its file's number and its own within the file, and so doesn't depend on who reads or computes it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from squeezebert_fast import errors
from squeezebert_fast.errors import ClusterError, ColumnError, InputError, SqueezeBertFastError
from squeezebert_fast.tables.rows import Record

MOST_FILES, MOST_SHARDS = 10**5, 10**6
"""What the names of parts have digits for, so that names in order are rows in order."""


class Shard(NamedTuple):
    """file: the place of its file among the input's. number: its own in the file."""

    file: int
    number: int

    @property
    def name(self) -> str:
        """Of its files, without a suffix."""
        return f"part-{self.file:05d}-{self.number:06d}"


@dataclass(frozen=True)
class Report:
    """What became of a shard.

    rows: that were written. errors: rows that can't be read or on which the model fails. blanks: texts that are empty.
    first_...: the place of the first one. bytes: of the file that were read for it. build: the kernels that computed.
    is_end: it is no shard, and its number is that of all shards of the file.
    """

    file: int
    number: int
    rows: int = 0
    errors: int = 0
    first_error: str = ""
    blanks: int = 0
    first_blank: str = ""
    bytes: int = 0
    build: str = ""
    is_end: bool = False

    @property
    def shard(self) -> Shard:
        return Shard(self.file, self.number)

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def failure_of(error: SqueezeBertFastError, host: str) -> dict[str, str]:
    """An error as JSON, so that it arrives as it is: what a task raises comes wrapped and is logged on the way."""
    kind = InputError if isinstance(error, ColumnError) else type(error)
    return {"kind": kind.__name__, "said": str(error), "host": host}


def raised_again(failure: Mapping[str, str], host: str) -> SqueezeBertFastError:
    """The error that `failure_of` described. host: this one's name; another's is added."""
    kind = getattr(errors, failure["kind"], ClusterError)
    place = "" if failure["host"] == host else f" (on the node {failure['host']})"
    error: SqueezeBertFastError = kind(failure["said"] + place)
    return error


UNLESS: dict[str, Any] = {"pair": None, "choices": (), "problem": "", "kept": {}}
"""The fields of a record that most inputs don't have, and what they are then."""


FIELDS = tuple(field.name for field in fields(Record))


def packed(records: Sequence[Record], but: str = "") -> bytes:
    """Records as JSON, a list for each field that one of them has. but: a field that is left out."""
    columns: dict[str, Any] = {
        "text": [record.text for record in records],
        "place": [record.place for record in records],
    }
    for name, default in UNLESS.items():
        values = [getattr(record, name) for record in records]
        if name != but and any(value != default for value in values):
            columns[name] = values
    # a lone surrogate, of what is kept or of a file's name, passes as it is
    return json.dumps(columns, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def unpacked(content: bytes, **more: Sequence[Any]) -> list[Record]:
    """The records that `packed` got. more: the values of a field that it left out."""
    found = json.loads(content) | more
    if "choices" in found:
        found["choices"] = map(tuple, found["choices"])
    columns = [found.get(name) or itertools.repeat(UNLESS[name]) for name in FIELDS]
    return [Record(*values) for values in zip(*columns, strict=False)]
