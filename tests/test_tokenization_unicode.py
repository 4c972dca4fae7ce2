"""The pure-Python text rules are those of the Rust library, on every code point."""

from __future__ import annotations

import random
from itertools import product

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from squeezebert_fast.tokenization.text import TextNormalizer, split_words
from squeezebert_fast.tokenization.unicode_tables import (
    DECOMPOSABLE,
    NONSPACING_MARKS,
    REORDERED_MARKS,
    WORD_CHARACTERS,
    parse_ranges,
)

# Beyond: private use and planes without a character; a sample of them is enough.
SWEPT = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 257), *range(0xE0000, 0xE0200)]


def rust_normalizer(*, lower: bool, strip: bool, cjk: bool) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=cjk, strip_accents=strip, lowercase=lower
    )


def differences(ours: str, theirs: str) -> list[str]:
    return [
        f"U+{code:04X}: {a!r}, not {b!r}"
        for code, a, b in zip(SWEPT, ours.split("|"), theirs.split("|"), strict=True)
        if a != b
    ]


@pytest.mark.parametrize(
    ("lower", "strip", "cjk"), [(True, True, True), (False, False, True), (True, False, False)]
)
def test_every_code_point_is_normalized_as_by_the_rust_library(lower: bool, strip: bool, cjk: bool) -> None:
    text = "|".join(chr(code) if chr(code) != "|" else "" for code in SWEPT)
    ours = TextNormalizer(lower_case=lower, strip_accents=strip, split_cjk=cjk)(text)
    assert differences(ours, rust_normalizer(lower=lower, strip=strip, cjk=cjk).normalize_str(text)) == []


def test_every_code_point_is_cut_as_by_the_rust_library() -> None:
    clean = TextNormalizer(lower_case=False, strip_accents=False, split_cjk=False)
    rust = pre_tokenizers.BertPreTokenizer()
    text = "".join(f"a{clean(chr(code))}" for code in SWEPT)
    assert split_words(text) == [word for word, _ in rust.pre_tokenize_str(text)]


def test_every_code_point_is_a_word_character_as_in_the_rust_library() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.add_tokens([AddedToken("QQ", single_word=True, normalized=False)])
    encodings = tokenizer.encode_batch([chr(code) + "QQ" for code in SWEPT[::7]])
    wrong = [
        f"U+{code:04X}"
        for code, encoding in zip(SWEPT[::7], encodings, strict=True)
        if (1 in encoding.ids) == (code in WORD_CHARACTERS)
    ]
    assert wrong == []


@pytest.mark.parametrize("seed", range(4))
def test_marks_in_any_order_are_normalized_as_by_the_rust_library(seed: int) -> None:
    draw = random.Random(seed)
    tables = (REORDERED_MARKS, NONSPACING_MARKS, DECOMPOSABLE)
    pools = [
        [code for a, b in table.ranges for code in range(a, b + 1) if code < 0xAC00 or code > 0xD7A3]
        for table in tables
    ]
    texts = [
        "".join(chr(draw.choice(draw.choice(pools))) for _ in range(draw.randint(1, 7))) for _ in range(2500)
    ]
    for lower, strip in product((False, True), (False, True)):
        ours = TextNormalizer(lower_case=lower, strip_accents=strip, split_cjk=True)
        theirs = rust_normalizer(lower=lower, strip=strip, cjk=True)
        assert [text for text in texts if ours(text) != theirs.normalize_str(text)] == []


def test_ranges_hold_their_ends_and_nothing_beyond() -> None:
    codes = parse_ranges("41-5A 5F")
    assert [code for code in range(0x100) if code in codes] == [*range(0x41, 0x5B), 0x5F]
