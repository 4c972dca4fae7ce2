"""Rows that are put away on the disk and taken out again by their number, for more texts than memory should hold."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Mapping
from typing import Any


class Shelf:
    """Rows of JSON values in a temporary file, which is gone when the process is. Eight bytes of memory a row."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed, and so removed, with the shelf
        self._starts = array("Q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, row: Mapping[str, object]) -> None:
        """Put a row behind the last. Values that JSON hasn't, such as dates, come back as text."""
        encoded = json.dumps(row, default=str).encode()
        self._file.seek(self._starts[-1])
        self._file.write(encoded)
        self._starts.append(self._starts[-1] + len(encoded))

    def __getitem__(self, number: int) -> dict[str, Any]:
        start, end = self._starts[number], self._starts[number + 1]
        self._file.seek(start)
        return json.loads(self._file.read(end - start))
