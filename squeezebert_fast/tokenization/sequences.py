"""Token sequences, the rows made of them, and the windows that truncation cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from squeezebert_fast.errors import TokenizerError

T = TypeVar("T")
Span = tuple[int, int]


class TokenSequence(Protocol):
    """One tokenized text, without special tokens."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""

    @property
    def tokens(self) -> list[str]:
        """The tokens as strings."""

    @property
    def offsets(self) -> list[Span]:
        """For each token the characters of the text (or of the pre-split word) that it came from."""

    @property
    def word_ids(self) -> list[int]:
        """For each token the index of its word."""


@dataclass(frozen=True)
class PlainSequence:
    """Token ids and tokens of one text."""

    ids: list[int]
    tokens: list[str]

    @property
    def offsets(self) -> list[Span]:
        """Raises `TokenizerError`: this tokenizer doesn't follow characters through its steps."""
        raise TokenizerError("SqueezeBertTokenizer has no offsets; SqueezeBertTokenizerFast has")

    @property
    def word_ids(self) -> list[int]:
        """Raises `TokenizerError`: this tokenizer doesn't follow words through its steps."""
        raise TokenizerError("SqueezeBertTokenizer has no word ids; SqueezeBertTokenizerFast has")


@dataclass(frozen=True)
class Template:
    """The special tokens of a row as ids and tokens: `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`, padding."""

    cls: tuple[int, str]
    sep: tuple[int, str]
    pad: tuple[int, str] | None


@dataclass(frozen=True)
class Row:
    """One row of a batch: a window of one or two token sequences, special tokens unless `bare`, padding.

    All lists that the properties give have the row's length.
    """

    parts: tuple[tuple[TokenSequence, Span], ...]
    template: Template
    bare: bool
    pad_left: int = 0
    pad_right: int = 0

    def __len__(self) -> int:
        kept = sum(stop - start for _, (start, stop) in self.parts)
        return self.pad_left + kept + special_token_count(len(self.parts), self.bare) + self.pad_right

    def padded_to(self, length: int, side: str) -> Row:
        """The row padded to `length`; itself where it is as long already."""
        missing = length - len(self)
        if missing <= 0:
            return self
        return replace(self, pad_left=missing) if side == "left" else replace(self, pad_right=missing)

    def _lay_out(
        self,
        values: Callable[[int, TokenSequence, Span], Sequence[T]],
        cls: T,
        sep: Callable[[int], T],
        pad: Any,
    ) -> list[T]:
        row = [pad] * self.pad_left
        if not self.bare:
            row.append(cls)
        for index, (sequence, window) in enumerate(self.parts):
            row.extend(values(index, sequence, window))
            if not self.bare:
                row.append(sep(index))
        row.extend([pad] * self.pad_right)
        return row

    def _constant(self, value: Callable[[int], T], cls: T, sep: Callable[[int], T], pad: T) -> list[T]:
        return self._lay_out(lambda index, _, window: [value(index)] * (window[1] - window[0]), cls, sep, pad)

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        template = self.template
        pad = template.pad[0] if template.pad else None
        return self._lay_out(
            lambda _, part, w: part.ids[w[0] : w[1]], template.cls[0], lambda _: template.sep[0], pad
        )

    @property
    def tokens(self) -> list[str]:
        """The tokens as strings."""
        template = self.template
        pad = template.pad[1] if template.pad else None
        return self._lay_out(
            lambda _, part, w: part.tokens[w[0] : w[1]], template.cls[1], lambda _: template.sep[1], pad
        )

    @property
    def type_ids(self) -> list[int]:
        """0 for the first sequence and what surrounds it, 1 for the second and its `[SEP]`, 0 for padding."""
        return self._constant(lambda index: index, 0, lambda index: index, 0)

    @property
    def attention_mask(self) -> list[int]:
        """0 for padding, 1 for everything else."""
        return [0] * self.pad_left + [1] * (len(self) - self.pad_left - self.pad_right) + [0] * self.pad_right

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for padding and for what the template put in, 0 for everything that the text gave."""
        return self._constant(lambda _: 0, 1, lambda _: 1, 1)

    @property
    def sequence_ids(self) -> list[int | None]:
        """0 or 1 for tokens of the first or second sequence, None for special tokens and padding."""
        return self._constant(lambda index: index, None, lambda _: None, None)

    @property
    def offsets(self) -> list[Span]:
        """`(start, end)` in characters of the text (or pre-split word); `(0, 0)` for special tokens."""
        return self._lay_out(lambda _, part, w: part.offsets[w[0] : w[1]], (0, 0), lambda _: (0, 0), (0, 0))

    def cut_off(self, stride: int) -> list[int]:
        """The ids that truncation cut off, with `stride` kept ones beside them; of one sequence at most."""
        for part, (start, stop) in self.parts:
            if start > 0:
                return part.ids[: start + stride]
            if stop < len(part.ids):
                return part.ids[max(stop - stride, 0) :]
        return []

    @property
    def word_ids(self) -> list[int | None]:
        """The index of each token's word in its sequence, None for special tokens and padding."""
        return self._lay_out(lambda _, part, w: part.word_ids[w[0] : w[1]], None, lambda _: None, None)


def special_token_count(sequences: int, bare: bool = False) -> int:
    """How many special tokens surround one or two sequences."""
    return 0 if bare else sequences + 1


def truncated_windows(
    lengths: Sequence[int], room: int, strategy: str, stride: int, side: str
) -> Iterator[tuple[Span, ...]]:
    """The windows of one or two sequences of these lengths that fit into `room` tokens together.

    The first combination is the truncated row, the others are its overflow: windows that overlap by `stride`
    tokens. Of two long sequences these are as many as the product of their lengths: an iterator.
    strategy: `longest_first` shortens the longer sequence first, `only_first` and `only_second` that one
        alone.
    side: the end that tokens are cut from, `left` or `right`.
    Raises `TokenizerError` where the strategy can't make the row fit, or where `stride` leaves a window no
    progress.
    """
    kept = _truncated_lengths(lengths, room, strategy)
    windows = [_windows(length, keep, stride, side) for length, keep in zip(lengths, kept, strict=True)]
    if len(windows) == 1:
        yield from ((window,) for window in windows[0])
        return
    (first, *first_overflow), second = windows
    # The order of the Rust library: every overflow of the first with all of the second, then the first
    # itself.
    yield first, second[0]
    yield from ((a, b) for a in first_overflow for b in second)
    yield from ((first, b) for b in second[1:])


def _truncated_lengths(lengths: Sequence[int], room: int, strategy: str) -> list[int]:
    excess = sum(lengths) - room
    if excess <= 0:
        return list(lengths)
    if room == 0:
        return [0] * len(lengths)
    if strategy == "longest_first":
        if len(lengths) == 1:
            return [room]
        shorter, longer = sorted(lengths)
        if shorter + max(shorter, room - shorter) > room:
            shorter, longer = room // 2, room - room // 2
        else:
            longer = room - shorter
        return [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]
    index = 0 if strategy == "only_first" else 1
    if index >= len(lengths):
        raise TokenizerError("truncation='only_second' needs a pair, got a single text that is too long")
    if lengths[index] <= excess:
        raise TokenizerError(
            f"truncation={strategy!r} can't make a row fit: {excess} tokens too many, but that text has only "
            f"{lengths[index]}"
        )
    return [length - excess if at == index else length for at, length in enumerate(lengths)]


def _windows(length: int, keep: int, stride: int, side: str) -> list[Span]:
    if keep >= length:
        return [(0, length)]
    if keep == 0:
        return [(0, 0), (0, length)]
    if stride >= keep:
        raise TokenizerError(
            f"stride={stride} is not less than the {keep} tokens of a text that a row has room for"
        )
    windows, step = [], keep - stride
    if side == "right":
        for start in range(0, length, step):
            windows.append((start, min(start + keep, length)))
            if start + keep >= length:
                break
    else:
        for stop in range(length, 0, -step):
            windows.append((max(stop - keep, 0), stop))
            if stop <= keep:
                break
    return windows
