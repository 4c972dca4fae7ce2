"""Rows that can't be read: whether one ends the work, is left out, or is passed on with its reason."""

from __future__ import annotations

import logging

from squeezebert_fast.errors import InputError, check_among, counted

logger = logging.getLogger("squeezebert_fast.tables")

STOP, SKIP, RECORD = ON_ERROR = ("stop", "skip", "record")
"""What becomes of a row that can't be read: an error, nothing, or a row that says why."""

LEFT_OUT = "; what follows in this file is left out"
"""Where what can't be read is no row but the rest of a file, such as a damaged .gz file's."""

CONSEQUENCES = {SKIP: "left out", RECORD: "their rows say so under 'error'"}


class Unreadable:
    """What is done about rows that can't be read, and how many there were.

    on_error: one of ON_ERROR. Raises InputError for another.
    """

    def __init__(self, on_error: str = STOP) -> None:
        check_among("--on-error", on_error, ON_ERROR, InputError)
        self.on_error, self.count, self.first = on_error, 0, ""

    def note(self, problem: str) -> None:
        """There is one; problem: its place, and why."""
        self.count += 1
        self.first = self.first or problem

    def warn(self) -> None:
        """Warn of how many there were, if any, and of what became of them."""
        if self.count:
            logger.warning(
                "%s can't be read (the first: %s): %s",
                counted(self.count, "row"),
                self.first,
                CONSEQUENCES[self.on_error],
            )
