"""What is written of a record: what stands beside its answer, the answer, and perhaps why there is none."""

from __future__ import annotations

from collections.abc import Mapping

from squeezebert_fast.tables.rows import Record
from squeezebert_fast.tables.unreadable import RECORD

ERROR = "error"
"""Under which a row has the reason why it has no answer, or null, where that is asked for."""


def beside(kept: Mapping[str, object], answer: Mapping[str, object]) -> dict[str, object]:
    """A row of values that were kept and an answer, whose names stay: of the same name, a kept one is `input_...`."""
    names = {}
    for name in kept:
        free = name
        while free in answer or (free != name and free in kept):
            free = f"input_{free}"
        names[free] = kept[name]
    return {**names, **answer}


def answered(
    record: Record, shown: Mapping[str, object], answer: Mapping[str, object], on_error: str
) -> dict[str, object]:
    """The row of a record: `shown` beside the answer.

    on_error: one of `unreadable.ON_ERROR`; with RECORD each row has an ERROR too, and one that couldn't be read has
    null in place of what couldn't, and of the answer.
    """
    if on_error != RECORD:
        return beside(shown, answer)
    if record.problem:
        answer = dict.fromkeys(answer)
        shown = shown if record.kept else dict.fromkeys(shown)
    return beside(shown, {**answer, ERROR: record.problem or None})
