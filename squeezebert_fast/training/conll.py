"""CoNLL files: a word and its tag a line, sentences parted by blank lines.

A line's fields are parted by tabs, or by spaces where it has no tab; the first is the word, the last its tag. No
word are -DOCSTART- and OntoNotes' `#begin document` and `#end document`, which end a sentence, and comments.

    # sent_id = 7                     a comment: CoNLL-U's, MultiCoNER's "# id 5239d808<tab>domain=en"
    #<tab>O     # O                   the word #
    #ebola<tab>B-X     #ebola B-X     a hashtag

A line that begins with # is a word where it has the separator and the number of fields of a line that doesn't; if a
space follows the #, its tag must also be one of theirs. Any other is a comment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.tables.rows import Row, Rows

logger = logging.getLogger("squeezebert_fast.training")

DOCUMENT_MARKS = ("-DOCSTART-", "#begin document", "#end document")
COMMENT = "#"
NO_WORD_NUMBER = re.compile(r"\d+[-.]\d+")
"""CoNLL-U's number of a line beside the words: of several words written as one, or of one that was left out."""


class TaggedSentence(NamedTuple):
    """The words of a sentence, a tag for each, and the place of each."""

    words: list[str]
    tags: list[str]
    places: list[str]


def read_conll(source: str) -> list[TaggedSentence]:
    """The sentences of a file. Raises InputError, naming file and line, for a line that is none of the above."""
    lines = list(Rows(source, ["line"], "text"))
    comments = _comments([line for (line,), _ in lines])
    sentences = [TaggedSentence([], [], [])]
    for at, ((line,), place) in enumerate(lines):
        if at in comments:
            continue
        if not line.strip() or line.startswith(DOCUMENT_MARKS):
            if sentences[-1].words:
                sentences.append(TaggedSentence([], [], []))
            continue
        fields = _fields(line)
        # Not strip(): a no-break space, which no tokenizer makes a token of, may be a word.
        word, tag = fields[0].strip(" "), fields[-1].strip()
        if len(fields) < 2 or not word or not tag:
            raise InputError(f"{place}: {line[:60]!r}, expected a word and its tag, or nothing")
        sentences[-1].words.append(word)
        sentences[-1].tags.append(tag)
        sentences[-1].places.append(place)
    if not sentences[-1].words:
        sentences.pop()
    if not sentences:
        raise InputError(f"{source} holds no words")
    if all(map(_is_counted, sentences)) and _has_three_fields(lines):
        raise InputError(
            f"{sentences[0].places[0]}: the first field is the word's number in every line, as in CoNLL-U; expected "
            "the word first and its tag last"
        )
    return sentences


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _comments(lines: Sequence[str]) -> set[int]:
    """Which lines are comments."""
    ordinary = [line for line in lines if line.strip() and not line.startswith((COMMENT, *DOCUMENT_MARKS))]
    shapes = {_shape(line) for line in ordinary}
    tags = {_fields(line)[-1].strip() for line in ordinary}
    comments, odd = set(), []
    for at, line in enumerate(lines):
        if not line.startswith(COMMENT) or line.startswith(DOCUMENT_MARKS):
            continue
        spaced = line[1:2] in ("", " ")
        fits = _shape(line) in shapes or not (shapes or spaced)
        if not fits or (spaced and _fields(line)[-1].strip() not in tags):
            comments.add(at)
            odd += [] if spaced else [at + 1]
    if odd:
        logger.warning(
            "%s beginning with # but with other fields than the words: read as a comment, the first is line %d: %r",
            counted(len(odd), "line"),
            odd[0],
            lines[odd[0] - 1][:60],
        )
    return comments


def _shape(line: str) -> tuple[bool, int]:
    return "\t" in line, len(_fields(line))


def _is_counted(sentence: TaggedSentence) -> bool:
    numbers = [word for word in sentence.words if not NO_WORD_NUMBER.fullmatch(word)]
    return numbers == [str(number) for number in range(1, len(numbers) + 1)]


def _has_three_fields(lines: Sequence[Row]) -> bool:
    return any(len(_fields(line)) > 2 for (line,), _ in lines)
