"""What kind of data a file looks like, for errors of those who gave it to the wrong task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from squeezebert_fast.training.conll import DOCUMENT_MARKS
from squeezebert_fast.training.tagging import TYPED

TABLE, CONLL, SQUAD = "a table", "a CoNLL file, words with tags", "a SQuAD file"
TASKS = {TABLE: "classification", CONLL: "token-classification", SQUAD: "question-answering"}
"""The kinds, and a task that reads each."""

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
LOOKED_AT = 65_536  # bytes
MOST = 0.9  # of the lines must have a form
SQUAD_BEGINS = re.compile(r'\s*\{.*"(?:paragraphs|qas)"\s*:', re.DOTALL)


def kind_of(source: str) -> str | None:
    """A key of TASKS, or None for what may be anything, such as stdin or a directory."""
    try:
        with Path(source).open("rb") as stream:
            head = stream.read(LOOKED_AT).decode("utf-8-sig", errors="ignore")
    except OSError:
        return None
    if SQUAD_BEGINS.match(head):
        return SQUAD
    lines = head.splitlines()
    if _are_tagged(lines):
        return CONLL
    # A CoNLL file may be called .tsv, and then be too short to show what it is.
    return TABLE if Path(source).suffix.lower() in TABLE_SUFFIXES or _are_texts(lines) else None


def hint(source: str, expected: str) -> str:
    """The end of an error about a file that should have been of the kind `expected`; "" where nothing says that not."""
    kind = kind_of(source)
    return "" if kind in (None, expected) else f"; it looks like {kind}, which --task {TASKS[kind]} reads"


def _are_tagged(lines: Sequence[str]) -> bool:
    words = [line for line in lines if line.strip() and not line.startswith(("#", *DOCUMENT_MARKS))]
    fields = [re.split("\t" if "\t" in line else " +", line.strip()) for line in words]
    usual = max(fields, key=lambda each: sum(len(each) == len(other) for other in fields[:50]), default=[])
    fitting = [each for each in fields if len(each) == len(usual) and " " not in each[0]]
    if len(usual) < 2 or len(fitting) < MOST * len(fields):
        return False
    return any(TYPED.fullmatch(each[-1]) for each in fitting) or any(not line.strip() for line in lines[1:-1])


def _are_texts(lines: Sequence[str]) -> bool:
    """Whether fields are parted by tabs, and one of most lines is several words."""
    found = sum("\t" in line and " " in line.strip() for line in lines)
    return 0 < MOST * (len(lines) - 1) <= found  # but for a header
