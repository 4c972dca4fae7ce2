"""Both tokenizers give what transformers' SqueezeBertTokenizer gives, on any text and with any options."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast

transformers = pytest.importorskip("transformers")

VOCAB = str(Path(__file__).parent / "data" / "vocab.txt")
OURS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"strip_accents": False},
    {"tokenize_chinese_chars": False},
]
ADDED = [
    AddedToken("new_tok"),
    AddedToken("Zürich", single_word=True),
    AddedToken("[ENT]", lstrip=True, special=True, normalized=False),
    AddedToken("日本", rstrip=True, normalized=False),
    AddedToken("hello", single_word=True, lstrip=True, rstrip=True),
]

# fmt: off
PIECES = st.sampled_from([
    "hello", "World", "unaffable", " ", "  ", "\t", "\n", "[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]",
    "[mask]", "new_tok", "zürich", "Zürich", "[ENT]", "日本", "##ing", "don't", "can 't", "2.5%", "!?",
    "…", "—", "$", "_", "é", "e\u0301", "İ", "Σ", "ΟΔΟΣ", "ß", "ǅ", "ﬁ", "中", "한국", "A\u030a", "\u0f78",
    "\u302e\u0327", "\u1dfb", "\u200b", "\u200d", "\ufffd", "\0", "\u00a0", "\u3000", "\x85", "\x1c",
    "\u2028", "\ue000", "\U000e0001", "😀", "👩\u200d👩\u200d👧", "𝔘𝔫", "\U0001d165\U0001d16e", "x" * 101,
    "a" * 100, "\u0378", "\U00016ea0",
])
# fmt: on
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=8).map("".join)
CALLS = st.fixed_dictionaries(
    {
        "padding": st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([None, False, True, "only_first", "only_second", "do_not_truncate"]),
        "max_length": st.sampled_from([None, 3, 4, 5, 8, 13, 24]),
        "stride": st.sampled_from([0, 0, 1, 2]),
        "pad_to_multiple_of": st.sampled_from([None, None, 3, 8]),
        "padding_side": st.sampled_from([None, "left", "right"]),
        "add_special_tokens": st.booleans(),
        "return_overflowing_tokens": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_attention_mask": st.sampled_from([None, True, False]),
        "return_token_type_ids": st.sampled_from([None, True, False]),
        "return_length": st.booleans(),
    }
)


@cache
def tokenizers(options: int = 0, added: bool = False) -> tuple[Any, list[Any]]:
    """transformers' tokenizer and ours, made alike."""
    theirs = transformers.SqueezeBertTokenizer(vocab=VOCAB, **OPTIONS[options])
    ours = [kind(VOCAB, **OPTIONS[options]) for kind in OURS]
    for tokenizer in [theirs, *ours] if added else []:
        tokenizer.add_tokens(ADDED)
    return theirs, ours


def batches(words: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Positional arguments: a text, a pair, a batch, a batch of pairs (two ways)."""
    pairs = st.lists(st.tuples(words, words), min_size=1, max_size=3)
    return st.one_of(
        st.tuples(words),
        st.tuples(words, words),
        st.lists(words, min_size=1, max_size=3).map(lambda batch: (batch,)),
        pairs.map(lambda batch: (batch,)),
        pairs.map(lambda batch: tuple(map(list, zip(*batch, strict=True)))),
    )


def outcome(call: Callable[[], Any]) -> Any:
    """The result, or None if transformers refuses (it raises anything, Rust panics included)."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return None


def assert_same(theirs: Any, ours: list[Any], *texts: Any, **call: Any) -> None:
    expected = outcome(lambda: theirs(*texts, return_offsets_mapping=True, **call))
    for tokenizer in ours:
        offsets = {"return_offsets_mapping": True} if tokenizer.is_fast else {}
        try:
            found = tokenizer(*texts, **offsets, **call)
        except TokenizerError:
            assert expected is None
            continue
        if expected is None:  # a stride that is refused without need, where add_special_tokens=False
            continue
        wanted = dict(expected)
        if not tokenizer.is_fast:
            del wanted["offset_mapping"]
        assert dict(found) == wanted
        for row in range(len(expected.encodings)):
            assert found.tokens(row) == expected.tokens(row)
            assert found.sequence_ids(row) == expected.sequence_ids(row)
            if tokenizer.is_fast:
                assert found.word_ids(row) == expected.word_ids(row)


fuzzed = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("options", range(len(OPTIONS)), ids=str)
@fuzzed
@given(text=TEXTS)
def test_any_text_gives_the_same_tokens_and_offsets(options: int, text: str) -> None:
    assert_same(*tokenizers(options), text)


@fuzzed
@given(text=st.text(max_size=40))
def test_arbitrary_unicode_gives_the_same_tokens_and_offsets(text: str) -> None:
    assert_same(*tokenizers(), text)


@pytest.mark.parametrize("options", [0, 1])
@fuzzed
@given(text=TEXTS)
def test_added_tokens_are_found_at_the_same_places(options: int, text: str) -> None:
    assert_same(*tokenizers(options, added=True), text)


@fuzzed
@given(texts=batches(TEXTS), call=CALLS, side=st.sampled_from(["left", "right"]))
def test_padding_truncation_and_overflow_are_the_same(texts: Any, call: dict[str, Any], side: str) -> None:
    theirs, ours = tokenizers()
    for tokenizer in [theirs, *ours]:
        tokenizer.truncation_side = side
    assert_same(theirs, ours, *texts, **call)


@fuzzed
@given(texts=batches(st.lists(TEXTS, min_size=1, max_size=4)), call=CALLS)
def test_presplit_words_are_the_same(texts: Any, call: dict[str, Any]) -> None:
    theirs, ours = tokenizers()
    for tokenizer in [theirs, *ours]:
        tokenizer.truncation_side = "right"
    assert_same(theirs, ours, *texts, is_split_into_words=True, **call)


@fuzzed
@given(
    ids=st.lists(st.one_of(st.integers(0, 30600), st.integers(0, 120), st.integers(999, 1064)), max_size=12),
    skip=st.booleans(),
    clean_up=st.booleans(),
)
def test_any_ids_decode_to_the_same_text(ids: list[int], skip: bool, clean_up: bool) -> None:
    theirs, ours = tokenizers(added=True)
    expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=clean_up)
    tokens = theirs.convert_ids_to_tokens(ids, skip_special_tokens=skip)
    for tokenizer in ours:
        assert tokenizer.decode(ids, skip, clean_up) == expected
        assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=skip) == tokens


@fuzzed
@given(
    tokens=st.lists(
        st.sampled_from(["##a", "it", "'", "s", "n't", "'m", "x do not", "##.", ",", "##", "'re"])
    )
)
def test_any_tokens_join_to_the_same_text(tokens: list[str]) -> None:
    theirs, ours = tokenizers()
    for tokenizer in ours:
        assert tokenizer.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)


@pytest.mark.parametrize("corpus", ["text_masc/corpus.txt", "text_presidential/corpus.txt"])
def test_real_text_gives_the_same_ids(corpus: str) -> None:
    path = Path(__file__).parents[2] / "shared" / "data" / corpus
    if not path.is_file():
        pytest.skip(f"needs ../shared/data/{corpus}")
    lines = path.read_text(encoding="utf-8").splitlines()[:1500]
    theirs, ours = tokenizers()
    expected = theirs(lines)["input_ids"]
    for tokenizer in ours:
        assert tokenizer(lines)["input_ids"] == expected


@pytest.mark.parametrize("special", [False, True])
def test_special_tokens_in_a_text_can_be_split(special: bool) -> None:
    text = "a [MASK] b [SEP][sep]"
    theirs = transformers.SqueezeBertTokenizer(vocab=VOCAB, split_special_tokens=special)
    for kind in OURS:
        assert kind(VOCAB, split_special_tokens=special).tokenize(text) == theirs.tokenize(text)


@pytest.mark.parametrize("call", [{}, {"is_split_into_words": True}])
def test_offsets_lead_back_to_the_text(call: dict[str, Any]) -> None:
    text = ["Ünïcödé", "has", "İ", "e\u0301", "ﬁre", "中文"]
    _, (_, fast) = tokenizers()
    given = text if call else " ".join(text)
    encoding = fast(given, return_offsets_mapping=True, **call)
    source = text if call else [" ".join(text)] * len(text)
    for row_word, (start, end), token in zip(
        encoding.word_ids(), encoding["offset_mapping"], encoding.tokens(), strict=True
    ):
        if row_word is not None and token != "[UNK]":
            piece = source[row_word if call else 0][start:end]
            assert fast.tokenize(piece)[0].removeprefix("##") == token.removeprefix("##")
