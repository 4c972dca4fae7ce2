"""Texts without a character that shows: a model has nothing to say of them, and nothing to learn from them."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable

from squeezebert_fast.errors import counted

logger = logging.getLogger("squeezebert_fast.tables")

UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")
"""Unicode's categories of spaces and of characters that show nothing."""

LEFT_OUT = "examples with one are left out"
"""What becomes of an empty text in training and evaluation."""


def any_blank(texts: Iterable[str]) -> bool:
    """Whether one of the texts has no character that shows."""
    return any(all(unicodedata.category(character) in UNSEEN for character in text) for text in texts)


class Blanks:
    """Counts the rows with such a text, to be told of at the end."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def note(self, place: str) -> None:
        """There is one; place: where it stands."""
        self.count += 1
        self.first = self.first or place

    def warn(self, consequence: str) -> None:
        """Warn of how many there were, if any, and of what became of them."""
        if self.count:
            verb = "is" if self.count == 1 else "are"
            logger.warning(
                "%s %s empty, the first is %s: %s", counted(self.count, "text"), verb, self.first, consequence
            )
