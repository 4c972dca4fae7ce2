"""Whatever a folder holds, the loaders end in one of the package's own errors: fuzzing's corpus and mutations of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz_loaders import CORPUS, TARGETS, try_loading

PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"null",
    b"-1",
    b"1e999",
    b"\xff",
    b"\0",
    b"\\ud800",
    b"%% vocab.txt\n",
    b"true",
    b"9" * 30,
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Some bytes replaced, removed, doubled, or cut off."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        end = min(len(content), at + draw.randint(0, 8))
        piece = draw.choice([draw.choice(PIECES), content[at:end] * 2, bytes([draw.randrange(256)]), b""])
        content = content[:at] + piece + content[end:]
    return content[: draw.randint(1, len(content))] if content and draw.random() < 0.1 else content


def inputs() -> list[tuple[str, str]]:
    return [(target, path.name) for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


@pytest.mark.parametrize(("target", "name"), inputs())
def test_an_input_of_the_corpus_loads_or_is_refused(target: str, name: str, tmp_path: Path) -> None:
    loads = try_loading(target, tmp_path, (CORPUS / target / name).read_bytes())
    if name.startswith("seed_"):
        assert loads


@pytest.mark.parametrize(("target", "name"), [each for each in inputs() if each[1].startswith("seed_")])
def test_a_damaged_folder_loads_or_is_refused(target: str, name: str, tmp_path: Path) -> None:
    draw = random.Random(f"{target} {name}")
    content = (CORPUS / target / name).read_bytes()
    for _ in range(60):
        try_loading(target, tmp_path, mutated(content, draw))
