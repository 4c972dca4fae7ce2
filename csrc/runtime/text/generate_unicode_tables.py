"""Writes unicode_tables.inc: the classes and mappings of characters that BERT's tokenizers go by.

    PYTHONPATH=. python csrc/runtime/text/generate_unicode_tables.py

They are those of the Python package's tokenizers, squeezebert_fast/tokenization/unicode_tables.py, which says why they
are of no one version of Unicode. What it takes of Python's `unicodedata` never changes between versions.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from squeezebert_fast.tokenization.unicode_tables import (
    CJK,
    DECOMPOSABLE,
    NONSPACING_MARKS,
    PUNCTUATION,
    RECENT_LOWER_CASE,
    REMOVED,
    REORDERED_MARKS,
    WHITESPACE,
    WORD_CHARACTERS,
)

OUTPUT = Path(__file__).with_name("unicode_tables.inc")
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic
DOTTED_I = 0x130  # the one character whose lower case is two; the C++ knows it

# As in unicode.h: the first is bit 0.
CLASSES: list[Callable[[int], bool]] = [
    lambda code: code in REMOVED,
    # REMOVED is asked first, as by the Python tokenizers.
    lambda code: code in WHITESPACE and code not in REMOVED,
    lambda code: code in CJK,
    lambda code: code in PUNCTUATION,
    lambda code: code in NONSPACING_MARKS,
    lambda code: code in WORD_CHARACTERS,
    lambda code: code in DECOMPOSABLE,
    lambda code: lower(code) != chr(code),
]


def lower(code: int) -> str:
    """The lower case of one character, without its neighbours' say."""
    return RECENT_LOWER_CASE.get(code) or chr(code).lower()


def classes(code: int) -> int:
    """A bit for each class that the character is of."""
    return sum(1 << bit for bit, has in enumerate(CLASSES) if has(code))


def combining_class(code: int) -> int:
    """Where canonical ordering puts the character among its neighbours: that of Unicode 12, as in `tokenizers`."""
    known = code in NONSPACING_MARKS or code in REORDERED_MARKS
    return unicodedata.combining(chr(code)) if known else 0


def runs(value: Callable[[int], int]) -> list[int]:
    """(first code point << 8 | value) for each run of one value; all of Unicode is in one of them."""
    found: list[int] = []
    for code in range(sys.maxunicode + 1):
        if not found or value(code) != found[-1] & 0xFF:
            found.append(code << 8 | value(code))
    return found


def lower_case_runs() -> list[tuple[int, int]]:
    """The last character and the distance to the lower case, for stretches whose capitals share that distance."""
    found: list[tuple[int, int]] = []
    for code in range(sys.maxunicode + 1):
        if lower(code) == chr(code) or code == DOTTED_I:
            continue
        (single,) = lower(code)
        distance = ord(single) - code
        if found and found[-1][1] == distance:
            found.pop()
        found.append((code, distance))
    return found


def rows(values: Iterable[str]) -> str:
    """Values in lines of at most 120 characters."""
    lines = [""]
    for value in values:
        if len(lines[-1]) + len(value) + 2 > 120:
            lines.append("")
        lines[-1] += f"{value}, " if lines[-1] else f"    {value}, "
    return "\n".join(line.rstrip() for line in lines)


def table(kind: str, name: str, values: Iterable[str]) -> str:
    """A constant array in C++."""
    return f"constexpr {kind} {name}[] = {{\n{rows(values)}\n}};\n"


def tables() -> str:
    """The whole file."""
    decomposed = [
        (code, unicodedata.normalize("NFD", chr(code)))
        for first, last in DECOMPOSABLE.ranges
        for code in range(first, last + 1)
        if code not in HANGUL
    ]
    begins = [0]
    for _, parts in decomposed:
        begins.append(begins[-1] + len(parts))
    cases = (f"{{{last:#x}, {distance}}}" for last, distance in lower_case_runs())
    return "\n".join(
        [
            "// Made by generate_unicode_tables.py: change that.\n",
            table("uint32_t", "kClassRuns", (f"{run:#x}" for run in runs(classes))),
            table("uint32_t", "kCombiningRuns", (f"{run:#x}" for run in runs(combining_class))),
            table("CaseRun", "kCaseRuns", cases),
            table("char32_t", "kDecomposable", (f"{code:#x}" for code, _ in decomposed)),
            table("uint16_t", "kPartsBegin", map(str, begins)),
            table("char32_t", "kParts", (f"{ord(part):#x}" for _, parts in decomposed for part in parts)),
        ]
    )


if __name__ == "__main__":
    OUTPUT.write_text(tables(), encoding="utf-8")
