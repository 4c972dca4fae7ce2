"""What the tags of words say: in which scheme they are written, and which entities they make.

              Anna   Smith  met  Bob    in  New    York   City
    IOB1      I-PER  I-PER  O    I-PER  O   I-LOC  I-LOC  I-LOC     B- where one follows another of its type
    IOB2      B-PER  I-PER  O    B-PER  O   B-LOC  I-LOC  I-LOC     also called BIO
    IOE1      I-PER  I-PER  O    I-PER  O   I-LOC  I-LOC  I-LOC     E- where another of its type follows
    IOE2      I-PER  E-PER  O    E-PER  O   I-LOC  I-LOC  E-LOC
    IOBES     B-PER  E-PER  O    S-PER  O   B-LOC  I-LOC  E-LOC     also called BIOES
    BILOU     B-PER  L-PER  O    U-PER  O   B-LOC  I-LOC  L-LOC
    BMES      B-PER  E-PER  O    S-PER  O   B-LOC  M-LOC  E-LOC     also without types: B, M, E, S
    BMEWO     B-PER  E-PER  O    W-PER  O   B-LOC  M-LOC  E-LOC
    plain     NNP    NNP    VBD  NNP    IN  NNP    NNP    NNP       parts of speech: no entities

Entities are what seqeval finds, the field's library for them (https://github.com/chakki-works/seqeval, 1.2.2). IOB
and IOE are read as by its default mode and by conlleval: a tag that can't stand where it does begins an entity. The
schemes that mark both ends are read as by its strict mode: an entity without its begin or end is none. That mode
doesn't know BMES and BMEWO, which are IOBES in other letters, and are read as it. (seqeval's default mode reads
BILOU, BMES and BMEWO wrong, and of IOBES forgives what its strict mode doesn't.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OUTSIDE = "O"
AS_IOBES = {"M": "I", "L": "E", "U": "S", "W": "S"} | {letter: letter for letter in "BIES"}
"""From every scheme's letters to those of IOBES."""

TYPED = re.compile(f"([{''.join(AS_IOBES)}])-(.+)", re.DOTALL)

SCHEMES = {
    "IOB": "BI",
    "IOE": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEWO": "BMEW",
}
"""The schemes' letters. IOB1 and IOB2, IOE1 and IOE2 have the same ones, and one reading serves both."""

OPEN = ("IOB", "IOE", "mixed")
PLAIN, MIXED = "plain", "mixed"

Entity = tuple[int, int, str]
"""The first word, the word after the last, and the type."""


@dataclass(frozen=True)
class Scheme:
    """How tags are read. name: of SCHEMES, or "plain", or "mixed", where letters are of none of SCHEMES alone.

    others: labels that aren't of the scheme and count as outside of every entity.
    """

    name: str
    others: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether there are no entities to find."""
        return self.name == PLAIN

    def entities(self, tags: Sequence[str]) -> set[Entity]:
        """The entities of a sentence's tags."""
        parts = [self._split(tag) for tag in tags]
        return _open_entities(parts) if self.name in OPEN else _closed_entities(parts)

    def stray_words(self, tags: Sequence[str]) -> int:
        """How many words of a sentence have a tag of the scheme, but belong to no whole entity."""
        inside = sum(letter != OUTSIDE for letter, _ in map(self._split, tags))
        return inside - sum(end - start for start, end, _ in self.entities(tags))

    def kind(self, tag: str) -> str:
        """The type of entity that a tag's word is part of, or OUTSIDE; of plain tags the tag itself."""
        if self.is_plain:
            return tag
        letter, kind = self._split(tag)
        return OUTSIDE if letter == OUTSIDE else kind

    def _split(self, tag: str) -> tuple[str, str]:
        """A tag's letter, as IOBES has it, and its type."""
        if match := TYPED.fullmatch(tag):
            return AS_IOBES[match[1]], match[2]
        return (OUTSIDE if tag in self.others else AS_IOBES.get(tag, OUTSIDE)), ""


def scheme_of(labels: Iterable[str]) -> Scheme:
    """The scheme that a set of labels is of.

    Labels are plain if none has a scheme's form, a letter, a hyphen and a type (or all are such letters alone); also if
    some haven't and there is no O. Where there is an O, those that haven't ("X", "[PAD]") count as outside.
    """
    inside = set(labels) - {OUTSIDE}
    others = {label for label in inside if label not in AS_IOBES and not TYPED.fullmatch(label)}
    if others:  # a lone letter among other labels is one of them: "S" may be a noun
        others |= inside & AS_IOBES.keys()
    tagged = inside - others
    if not tagged or (others and OUTSIDE not in set(labels)):
        return Scheme(PLAIN)
    letters = {label[0] for label in tagged}
    name = next((name for name, own in SCHEMES.items() if letters <= set(own)), MIXED)
    return Scheme(name, tuple(sorted(others)))


def _open_entities(parts: Sequence[tuple[str, str]]) -> set[Entity]:
    """The entities where an end may be left unmarked: what doesn't go on with one begins another."""
    found: set[Entity] = set()
    start, kind, before = 0, "", OUTSIDE
    for at, (letter, name) in enumerate([*parts, (OUTSIDE, "")]):
        goes_on = before in ("B", "I") and letter in ("I", "E") and name == kind
        if not goes_on:
            if before != OUTSIDE:
                found.add((start, at, kind))
            start = at
        kind, before = name, letter
    return found


def _closed_entities(parts: Sequence[tuple[str, str]]) -> set[Entity]:
    """The entities that have both ends: B, any number of I, E, all of one type; or S."""
    found: set[Entity] = set()
    start, kind = -1, ""  # -1: nothing is begun
    for at, (letter, name) in enumerate(parts):
        if letter in ("B", "S"):
            start, kind = at, name
        elif letter == OUTSIDE or name != kind:
            start = -1
        if letter in ("E", "S"):
            if start >= 0:
                found.add((start, at + 1, kind))
            start = -1
    return found
