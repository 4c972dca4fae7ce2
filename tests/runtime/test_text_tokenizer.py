"""The C++ tokenizer gives the ids and token types of the Python package's tokenizers."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.shipped import SENTIMENT_MODEL
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast
from tests.runtime.text_library import BAD_TEXT, UNLIMITED, RuntimeTextError, RuntimeTokenizer
from tests.test_tokenization_parity import ADDED, OPTIONS, TEXTS

VOCAB = Path(__file__).parents[1] / "data" / "vocab.txt"
DATA = Path(__file__).parents[3] / "shared" / "data"
CORPORA = sorted(path.relative_to(DATA) for path in DATA.glob("*/*") if path.suffix != ".md")

fuzzed = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@cache
def tokenizers(options: int = 0, added: bool = False, side: str = "right") -> tuple[Any, RuntimeTokenizer]:
    """Python's and the C++ one of its folder."""
    python = SqueezeBertTokenizerFast(VOCAB, truncation_side=side, **OPTIONS[options])
    if added:
        python.add_tokens([*ADDED, AddedToken("a b"), AddedToken("\u0301"), AddedToken("ZÜRICH")])
    folder = mkdtemp()
    try:
        python.save_pretrained(folder)
        return python, RuntimeTokenizer(folder)
    finally:
        shutil.rmtree(folder)


def assert_same(pair: tuple[Any, RuntimeTokenizer], *texts: str, max_length: int = -1) -> None:
    python, runtime = pair
    call = {} if max_length < 0 else {"truncation": True, "max_length": max_length}
    expected = python(*texts, **call)
    ids, types = runtime.encode(*texts, max_length=max_length)
    assert ids == expected["input_ids"]
    assert types == expected["token_type_ids"]


@pytest.mark.parametrize("options", range(len(OPTIONS)))
@fuzzed
@given(text=TEXTS)
def test_any_text_gives_the_same_ids(options: int, text: str) -> None:
    assert_same(tokenizers(options), text)


@fuzzed
@given(text=st.text(max_size=40))
def test_arbitrary_unicode_gives_the_same_ids(text: str) -> None:
    assert_same(tokenizers(), text)


@pytest.mark.parametrize("options", [0, 1])
@fuzzed
@given(text=TEXTS)
def test_added_tokens_are_found_at_the_same_places(options: int, text: str) -> None:
    assert_same(tokenizers(options, added=True), text)


@pytest.mark.parametrize("side", ["left", "right"])
@fuzzed
@given(first=TEXTS, second=st.one_of(st.none(), TEXTS), max_length=st.integers(2, 40))
def test_rows_are_truncated_alike(side: str, first: str, second: str | None, max_length: int) -> None:
    pair = tokenizers(side=side)
    if not second:  # which Python takes for none
        assert_same(pair, first, max_length=max_length)
    elif max_length >= 3:
        assert_same(pair, first, second, max_length=max_length)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [2, 3, 12, 512])
def test_long_texts_are_truncated_alike(side: str, max_length: int) -> None:
    long, longer = ("hello world! " * count for count in (9000, 9001))
    pair = tokenizers(side=side)
    assert_same(pair, long, max_length=max_length)
    if max_length >= 3:
        for first, second in ((long, longer), (longer, long), (longer, "a"), ("a", longer), (long, long)):
            assert_same(pair, first, second, max_length=max_length)


def test_a_second_text_that_is_empty_still_counts() -> None:
    _, runtime = tokenizers()
    assert runtime.encode("a", "") == ([101, 1037, 102, 102], [0, 0, 0, 1])


@pytest.mark.parametrize("corpus", CORPORA, ids=str)
def test_real_text_gives_the_same_ids(corpus: Path) -> None:
    lines = (DATA / corpus).read_text(encoding="utf-8", errors="replace").splitlines()[:2000]
    python, runtime = tokenizers()
    expected = python(lines)["input_ids"]
    assert [runtime.encode(line)[0] for line in lines] == expected


def test_a_large_text_gives_the_same_ids() -> None:
    corpus = DATA / "text_wikitext2"
    if not corpus.is_dir():
        pytest.skip(f"needs {corpus}")
    text = (
        max(corpus.iterdir(), key=lambda path: path.stat().st_size)
        .read_bytes()[:1_000_000]
        .decode(errors="ignore")
    )
    assert_same(tokenizers(), text)
    assert_same(tokenizers(added=True), text)


def test_the_shipped_model_has_its_numbers_and_tokens() -> None:
    python, runtime = SqueezeBertTokenizer.from_pretrained(SENTIMENT_MODEL), RuntimeTokenizer(SENTIMENT_MODEL)
    assert (runtime.size, runtime.mask_id, runtime.pad_id) == (
        len(python),
        python.mask_token_id,
        python.pad_token_id,
    )
    assert runtime.model_max_length == python.model_max_length
    codes = [*range(len(python) + 2)]
    assert [runtime.token(code) for code in codes] == python.convert_ids_to_tokens(codes)
    assert runtime.token(-1) is None
    assert_same((python, runtime), "The shipped model classifies this: [MASK]!", "and that")


def test_added_tokens_are_written_as_in_python() -> None:
    python, runtime = tokenizers(added=True)
    codes = [*range(30520, len(python) + 1)]
    assert [runtime.token(code) for code in codes] == python.convert_ids_to_tokens(codes)
    assert runtime.size == len(python)


@pytest.mark.parametrize(
    ("text", "byte"), [(b"\xff", 0), (b"abc\xed\xa0\x80", 3), ("é".encode() * 9000 + b"\xc3", 18000)]
)
def test_text_that_is_not_utf8_is_refused_by_the_byte(text: bytes, byte: int) -> None:
    _, runtime = tokenizers()
    with pytest.raises(RuntimeTextError, match=f"the text isn't UTF-8: byte {byte} is malformed") as raised:
        runtime.encode(text, max_length=16)
    assert raised.value.code == BAD_TEXT
    with pytest.raises(RuntimeTextError, match=f"the second text isn't UTF-8: byte {byte} "):
        runtime.encode("a", text)


def test_a_length_without_room_for_the_special_tokens_is_refused_as_in_python() -> None:
    python, runtime = tokenizers()
    for texts, least in ((("a",), 2), (("a", "b"), 3)):
        with pytest.raises(RuntimeTextError, match=f"max_length is {least - 1}; expected at least {least}"):
            runtime.encode(*texts, max_length=least - 1)
        with pytest.raises(TokenizerError, match=f"max_length is {least - 1}; expected at least {least}"):
            python(*texts, truncation=True, max_length=least - 1)
    assert runtime.model_max_length == UNLIMITED


def test_nul_and_control_characters_are_dropped_as_in_python() -> None:
    assert_same(tokenizers(), "he\0llo\x01 wor\ufffdld\0")


# Each has a cost that would grow with the square of its size in a tokenizer that looks again at what it has seen.
HOSTILE = {
    "one word": "a" * 3_000_000,
    "words of a hundred": ("a" * 99 + "q ") * 3000,
    "marks": "a" + "\u0f71\u0f72\u302e\u0327" * 300_000,
    "punctuation": "#" * 1_000_000,
    "half a token": "[MASK" * 500_000,
    "tokens": "[MASK]" * 300_000,
    "spaces": " " * 3_000_000 + "[ENT]" + " " * 3_000_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_of_megabytes_are_cut(kind: str) -> None:
    python, runtime = tokenizers(added=True)
    short = HOSTILE[kind][:2000]
    assert_same((python, runtime), short)
    ids, _ = runtime.encode(HOSTILE[kind], max_length=64)
    assert ids == python(HOSTILE[kind], truncation=True, max_length=64)["input_ids"]
