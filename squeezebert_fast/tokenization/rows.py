"""From token sequences to the rows of a batch: truncation, special tokens, padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import Layout, Sample
from squeezebert_fast.tokenization.sequences import (
    Row,
    Span,
    Template,
    TokenSequence,
    special_token_count,
    truncated_windows,
)


def build_rows(
    samples: Iterable[Sample],
    sequences: Iterable[TokenSequence],
    template: Template,
    layout: Layout,
    *,
    bare: bool,
    overflow: bool,
) -> tuple[list[Row], list[int]]:
    """The padded rows of a batch, and for each the index of its sample.

    sequences: those of the samples' first and second texts, in order.
    bare: without special tokens.
    overflow: also rows for what truncation cut off, after the row of their sample.
    Raises `TokenizerError` where a row can't be truncated as asked.
    """
    following = iter(sequences)
    rows: list[Row] = []
    origins: list[int] = []
    longest = 0
    for at, sample in enumerate(samples):
        parts = [next(following) for text in sample if text is not None]
        windows = _windows([len(part.ids) for part in parts], layout, bare)
        made = [
            Row(tuple(zip(parts, window, strict=True)), template, bare)
            for window in (windows if overflow else islice(windows, 1))
        ]
        longest = max(longest, len(made[0]))
        rows.extend(made)
        origins.extend([at] * len(made))
    if layout.padding != "do_not_pad":
        target = layout.padded_length(longest)
        rows = [row.padded_to(target, layout.padding_side) for row in rows]
    return rows, origins


def _windows(lengths: Sequence[int], layout: Layout, bare: bool) -> Iterable[tuple[Span, ...]]:
    if layout.truncation == "do_not_truncate" or layout.max_length is None:
        return [tuple((0, length) for length in lengths)]
    special = special_token_count(len(lengths), bare)
    if layout.max_length < special:
        raise TokenizerError(f"max_length is {layout.max_length}; expected at least {special}")
    if layout.stride > layout.max_length - special_token_count(1, bare) >= 0:
        raise TokenizerError(f"stride={layout.stride} is too large for max_length={layout.max_length}")
    room = layout.max_length - special
    return truncated_windows(lengths, room, layout.truncation, layout.stride, layout.truncation_side)
