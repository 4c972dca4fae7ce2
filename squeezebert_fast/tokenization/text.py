"""BERT's basic tokenization in pure Python: clean, lower-case and strip a text, then cut it into words.

Follows `BertNormalizer` and `BertPreTokenizer` of the Rust library `tokenizers` on every code point, which
are themselves BERT's `BasicTokenizer` (Devlin et al. 2018, tokenization.py) with the tables of other Unicode
versions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from squeezebert_fast.tokenization.unicode_tables import (
    CJK,
    DECOMPOSABLE,
    NONSPACING_MARKS,
    PUNCTUATION,
    RECENT_LOWER_CASE,
    REMOVED,
    REORDERED_MARKS,
    WHITESPACE,
    CodePoints,
)

WHITESPACE_CHARACTERS = "".join(
    chr(code) for first, last in WHITESPACE.ranges for code in range(first, last + 1)
)


class _LazyMap(dict[int, str]):
    """A table for `str.translate` that fills itself with the code points that occur."""

    def __init__(self, rule: Callable[[int], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        replacement = self[code] = self._rule(code)
        return replacement


class TextNormalizer:
    """`str -> str`: what `BertNormalizer(clean_text=True, ...)` gives.

    Nearly everything is a matter of one character alone and one `str.translate`. The exception is the
    canonical order of combining marks: a few marks stay when accents are stripped and must change places
    with their neighbours.
    """

    def __init__(self, *, lower_case: bool, strip_accents: bool, split_cjk: bool) -> None:
        self.lower_case = lower_case
        self.strip_accents = strip_accents
        self.split_cjk = split_cjk
        self._map = _LazyMap(self._normalize_character)
        self._map_with_barriers = _LazyMap(self._normalize_character_with_barriers)

    def __call__(self, text: str) -> str:
        """Returns the normalized text."""
        if not self.strip_accents or _REORDERED.search(text) is None:
            return text.translate(self._map)
        ordered = _REORDERED_RUN.sub(_canonical_order, text.translate(self._map_with_barriers))
        return ordered.replace(_BARRIER, "")

    def _normalize_character(self, code: int) -> str:
        if code in REMOVED:
            return ""
        if code in WHITESPACE:
            return " "
        text = chr(code)
        if self.strip_accents:
            if code in DECOMPOSABLE:
                text = unicodedata.normalize("NFD", text)
            text = "".join(part for part in text if ord(part) not in NONSPACING_MARKS)
        if self.lower_case:
            text = "".join(RECENT_LOWER_CASE.get(ord(part)) or part.lower() for part in text)
        return f" {text} " if self.split_cjk and code in CJK else text

    def _normalize_character_with_barriers(self, code: int) -> str:
        # A stripped mark of combining class 0 still keeps the marks on its two sides apart.
        if code not in REMOVED and not self._map[code]:
            stripped = unicodedata.normalize("NFD", chr(code))
            if any(unicodedata.combining(part) == 0 for part in stripped):
                return _BARRIER
        return self._map[code]

    def __reduce__(self) -> tuple[Callable[..., TextNormalizer], tuple[bool, bool, bool]]:
        return _restore, (self.lower_case, self.strip_accents, self.split_cjk)


def _restore(lower_case: bool, strip_accents: bool, split_cjk: bool) -> TextNormalizer:
    return TextNormalizer(lower_case=lower_case, strip_accents=strip_accents, split_cjk=split_cjk)


def split_words(normalized: str) -> list[str]:
    """The words of a normalized text; each punctuation character is a word of its own."""
    return normalized.translate(_SPACED_PUNCTUATION).split()


def _space_punctuation(code: int) -> str:
    return f" {chr(code)} " if code in PUNCTUATION else chr(code)


def character_class(codes: CodePoints) -> str:
    """The inside of a regular expression's brackets for these code points."""
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in codes.ranges)


def _canonical_order(run: re.Match[str]) -> str:
    return "".join(sorted(run.group(), key=unicodedata.combining))


_SPACED_PUNCTUATION = _LazyMap(_space_punctuation)
_BARRIER = "\0"  # never in a normalized text
_REORDERED = re.compile(f"[{character_class(REORDERED_MARKS)}]")
_REORDERED_RUN = re.compile(f"[{character_class(REORDERED_MARKS)}]{{2,}}")
