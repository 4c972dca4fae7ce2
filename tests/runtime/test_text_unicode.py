"""The C++ text rules are those of the Python package and of the Rust library, on every code point."""

from __future__ import annotations

import random
import sys
from itertools import product
from pathlib import Path

import pytest
from tokenizers import normalizers

from csrc.runtime.text import generate_unicode_tables
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.tokenization.text import TextNormalizer
from squeezebert_fast.tokenization.unicode_tables import DECOMPOSABLE, NONSPACING_MARKS, REORDERED_MARKS
from tests.runtime.text_library import RuntimeTokenizer, malformed, normalized

CODE_POINTS = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
OPTIONS = list(product((False, True), repeat=3))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a"]
PLANE = 0x10000


@pytest.mark.parametrize(("lower", "strip", "cjk"), OPTIONS)
def test_every_code_point_is_normalized_as_by_the_rust_library(lower: bool, strip: bool, cjk: bool) -> None:
    rust = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=cjk, strip_accents=strip, lowercase=lower
    )
    # A letter between them: marks don't reach over it.
    text = "".join(f"{chr(code)}q" for code in CODE_POINTS)
    assert normalized(text, lower=lower, strip=strip, cjk=cjk) == rust.normalize_str(text)


@pytest.mark.parametrize("seed", range(4))
def test_marks_in_any_order_are_normalized_as_in_python(seed: int) -> None:
    draw = random.Random(seed)
    pools = [
        [code for first, last in table.ranges for code in range(first, last + 1)]
        for table in (REORDERED_MARKS, NONSPACING_MARKS, DECOMPOSABLE)
    ]
    text = " ".join(
        "".join(chr(draw.choice(draw.choice(pools))) for _ in range(draw.randint(1, 7))) for _ in range(5000)
    )
    for lower, strip, cjk in OPTIONS:
        expected = TextNormalizer(lower_case=lower, strip_accents=strip, split_cjk=cjk)(text)
        assert normalized(text, lower=lower, strip=strip, cjk=cjk) == expected


@pytest.mark.parametrize(
    ("plane", "cased"), [*product(range(0, 0x110000, PLANE), [False]), (0, True), (PLANE, True)]
)
def test_every_code_point_gets_the_ids_of_the_fast_tokenizer(plane: int, cased: bool, tmp_path: Path) -> None:
    codes = [code for code in CODE_POINTS if plane <= code < plane + PLANE]
    # Each is a token, alone and within a word, so that no difference hides behind the unknown token.
    tokens = [*SPECIAL, *(f"{prefix}{chr(code)}" for code in codes for prefix in ("", "##"))]
    vocab = {token: code for code, token in enumerate(dict.fromkeys(tokens))}
    python = SqueezeBertTokenizerFast(vocab, do_lower_case=not cased)
    python.save_pretrained(tmp_path)
    runtime = RuntimeTokenizer(tmp_path)
    for start in range(0, len(codes), 4096):
        text = " ".join(f"{chr(code)} a{chr(code)}a" for code in codes[start : start + 4096])
        assert runtime.encode(text)[0] == python(text)["input_ids"], f"from U+{codes[start]:04X} on"


def test_the_tables_are_what_the_script_makes_of_the_python_tokenizers() -> None:
    assert generate_unicode_tables.OUTPUT.read_text(encoding="utf-8") == generate_unicode_tables.tables()


@pytest.mark.parametrize("seed", range(3))
def test_malformed_bytes_are_found_where_python_finds_them(seed: int) -> None:
    draw = random.Random(seed)
    edges = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC]
    edges += [0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    for _ in range(20000):
        text = bytes(draw.choices(edges, k=draw.randint(0, 6)))
        try:
            text.decode("utf-8")
            expected = -1
        except UnicodeDecodeError as error:
            expected = error.start
        assert malformed(text) == expected, text
