"""The items of a JSON list one at a time, so that a file of any length takes little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from squeezebert_fast.errors import InputError

SPACE = re.compile(r"[ \t\n\r]*")


def items(pieces: Iterator[str], name: str) -> Iterator[dict[str, Any]]:
    """Each object of the list that `pieces` spell together. Raises InputError, naming the file and the item."""
    text = _Text(pieces)
    if text.character() != "[":
        raise InputError(f"{name} is not a JSON list of objects: it begins with {text.rest()[:20]!r}")
    text.at += 1
    number = 0
    while text.character() != "]":
        number += 1
        if number > 1:
            if text.character() != ",":
                raise InputError(f"{name}, item {number - 1}: not followed by a comma or the list's end")
            text.at += 1
        if text.character() != "{":
            raise InputError(f"{name}, item {number}: expected a JSON object, found {text.rest()[:20]!r}")
        try:
            yield text.value()
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, item {number}: not valid JSON: {error}") from error
    text.at += 1
    if text.character():
        raise InputError(f"{name}: {text.rest()[:20]!r} follows the JSON list")


class _Text:
    """Text that comes in pieces. at: where reading stands in what has come."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self.pieces, self.text, self.at = pieces, "", 0
        self.decode = json.JSONDecoder().raw_decode

    def character(self) -> str:
        """The next one that is no space, or "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing too
            if self.at < len(self.text) or not self._read_more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """The object that begins here. Raises ValueError where there is none up to the end of the text."""
        while True:
            try:
                value, self.at = self.decode(self.text, self.at)
                return value
            except ValueError:
                if not self._read_more():
                    raise

    def rest(self) -> str:
        return self.text[self.at :]

    def _read_more(self) -> bool:
        """Read as much again as is there already, or a long object would be parsed anew for each of its pieces."""
        parts, read = [self.rest()], 0
        for piece in self.pieces:
            parts.append(piece)
            read += len(piece)
            if read >= len(parts[0]):
                break
        self.text, self.at = "".join(parts), 0
        return read > 0
