"""Records on which a model fails, which then needn't end the work: found, and left out or passed on with the reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from squeezebert_fast.answering.running import WINDOW_BATCHES
from squeezebert_fast.errors import SqueezeBertFastError
from squeezebert_fast.tables.rows import Record
from squeezebert_fast.tables.unreadable import SKIP, STOP, Unreadable

Answer = TypeVar("Answer")
Run = Callable[[Iterable[Record]], Iterator[tuple[Record, Answer]]]


def each_answered(
    records: Iterable[Record], run: Run[Answer], nothing: Answer, unreadable: Unreadable, batch_size: int
) -> Iterator[tuple[Record, Answer]]:
    """Each record with its answer, in order and in constant memory.

    run: gives those of some records. nothing: the answer of a record on which it fails. unreadable: what is done then:
    such a record is an error, left out, or has a problem; the last two are counted.
    """
    if unreadable.on_error == STOP:
        yield from run(records)
        return
    stream = iter(records)
    while window := list(itertools.islice(stream, WINDOW_BATCHES * batch_size)):
        for record, answer, has_failed in _by_halves(window, run, nothing):
            if has_failed:
                unreadable.note(record.problem)
                if unreadable.on_error == SKIP:
                    continue
            yield record, answer


def _by_halves(
    records: Sequence[Record], run: Run[Answer], nothing: Answer
) -> list[tuple[Record, Answer, bool]]:
    """Each record with its answer, and whether the model failed on it."""
    try:
        return [(record, answer, False) for record, answer in run(records)]
    except SqueezeBertFastError as error:
        if len(records) == 1:
            (record,) = records
            if record.problem:  # it has its reason, and is counted
                return [(record, nothing, False)]
            return [(replace(record, problem=f"{record.place}: {error}"), nothing, True)]
    half = len(records) // 2
    return _by_halves(records[:half], run, nothing) + _by_halves(records[half:], run, nothing)
