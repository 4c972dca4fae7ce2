"""The methods around encoding, what they refuse, and use from many threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import BatchEncoding, SqueezeBertTokenizer, SqueezeBertTokenizerFast

VOCAB = Path(__file__).parent / "data" / "vocab.txt"
KINDS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Shared by the tests that leave it as it is."""
    return request.param(VOCAB)


@pytest.fixture(params=KINDS)
def fresh(request: pytest.FixtureRequest) -> Any:
    """For a test that changes it."""
    return request.param(VOCAB)


@pytest.fixture(scope="module")
def fast() -> SqueezeBertTokenizerFast:
    return SqueezeBertTokenizerFast(VOCAB)


def test_a_pair_is_laid_out_as_bert_wants_it(tokenizer: Any) -> None:
    encoding = tokenizer("hello world", "again", padding="max_length", max_length=8)
    assert encoding.tokens() == ["[CLS]", "hello", "world", "[SEP]", "again", "[SEP]", "[PAD]", "[PAD]"]
    assert encoding["token_type_ids"] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert encoding["attention_mask"] == [1, 1, 1, 1, 1, 1, 0, 0]
    assert encoding.sequence_ids() == [None, 0, 0, None, 1, None, None, None]


def test_tensors_are_int64_and_ragged_rows_are_refused(tokenizer: Any) -> None:
    texts = ["hello", "hello world"]
    encoding = tokenizer(texts, padding=True, return_tensors="pt")
    assert encoding.input_ids.dtype == torch.int64
    assert encoding.input_ids.shape == encoding["attention_mask"].shape == (2, 4)
    assert encoding.to("cpu") is encoding
    assert tokenizer("hello", return_tensors="np")["input_ids"].shape == (1, 3)
    assert tokenizer(texts, padding=True, return_tensors="np")["input_ids"].dtype == np.int64
    with pytest.raises(TokenizerError, match="input_ids can't become one tensor"):
        tokenizer(texts, return_tensors="pt")


def test_a_batch_encoding_is_a_mapping_with_attributes(tokenizer: Any) -> None:
    encoding = tokenizer(["hello", "world"])
    assert set(encoding) == {"input_ids", "token_type_ids", "attention_mask"}
    assert {**encoding}["input_ids"] == encoding.input_ids
    assert encoding[0].ids == encoding.input_ids[0]
    assert encoding[1:]["input_ids"] == encoding.input_ids[1:]
    assert encoding.n_sequences == 1
    again = pickle.loads(pickle.dumps(encoding))  # noqa: S301  # our own bytes
    assert again == encoding
    assert again.tokens(1) == ["[CLS]", "world", "[SEP]"]
    with pytest.raises(AttributeError, match="labels"):
        _ = encoding.labels
    with pytest.raises(TokenizerError, match="row 2 of a batch of 2"):
        encoding.tokens(2)


def test_tokens_words_and_characters_lead_to_each_other(fast: SqueezeBertTokenizerFast) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SqueezeBertTokenizer(vocab=str(VOCAB))
    first, second = "unaffable Zürich  x", "don't \u200b stop"
    ours, expected = fast(first, second), theirs(first, second)
    for token in range(len(expected["input_ids"])):
        assert ours.token_to_word(token) == expected.token_to_word(token)
        assert ours.token_to_sequence(token) == expected.token_to_sequence(token)
        assert ours.token_to_chars(token) == expected.token_to_chars(token)
    for sequence, text in enumerate((first, second)):
        for char in range(len(text)):
            assert ours.char_to_token(0, char, sequence) == expected.char_to_token(0, char, sequence)
            assert ours.char_to_word(0, char, sequence) == expected.char_to_word(0, char, sequence)
        for word in range(3):
            assert ours.word_to_tokens(0, word, sequence) == expected.word_to_tokens(0, word, sequence)
            assert ours.word_to_chars(0, word, sequence) == expected.word_to_chars(0, word, sequence)
    assert ours.word_to_tokens(0, 99) is None
    assert ours.char_to_token(2) == ours.char_to_token(0, 2)


def test_the_python_tokenizer_says_that_it_has_no_offsets() -> None:
    tokenizer = SqueezeBertTokenizer(VOCAB)
    for ask in (
        lambda: tokenizer("a", return_offsets_mapping=True),
        lambda: tokenizer("a").char_to_token(0),
        lambda: tokenizer("a").word_ids(),
    ):
        with pytest.raises(TokenizerError, match="SqueezeBertTokenizerFast has"):
            ask()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((None,), "text is None; expected a str"),
        ((3,), "text is of type int"),
        (([],), "empty batch"),
        ((["a", 3],), r"text\[1\] is of type int"),
        ((["a", None],), r"text\[1\] is None"),
        (([["a", "b", "c"]],), r"text\[0\] is a list of 3"),
        (([["a", ["b"]]],), r"text\[0\]\[1\] is of type list"),
        (("a", 3), "text_pair is of type int"),
        (("a", 0), "text_pair is of type int"),
        (("a", ["b"]), "text_pair is of type list"),
        ((["a"], "b"), "text_pair of type str"),
        ((["a", "b"], ["c"]), "batch of 2 and text_pair of 1"),
        ((["a"], [None]), r"text_pair\[0\] is None"),
        (("a\ud800",), "lone surrogate"),
        ((b"a",), "type bytes"),
    ],
)
def test_wrong_texts_are_refused(tokenizer: Any, texts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer(*texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("a b",), "expects a list of words"),
        (([1],), r"text\[0\] is of type int"),
        (([["a"], "b"],), r"text\[1\] is of type str"),
        (([["a"], [3]],), r"text\[1\]\[0\] is of type int"),
        (([[["a"], ["b"], ["c"]]],), r"text\[0\] is a list of 3"),
        ((["a"], "b"), "text_pair is of type str"),
    ],
)
def test_wrong_presplit_words_are_refused(tokenizer: Any, texts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer(*texts, is_split_into_words=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "foo"}, "padding is 'foo', expected one of longest"),
        ({"padding": None}, "padding is None"),
        ({"truncation": "first"}, "truncation is 'first'"),
        ({"max_length": -1}, "max_length is -1; expected an integer of at least 0"),
        ({"max_length": 2.5}, "max_length is 2.5"),
        ({"max_length": True}, "max_length is True"),
        ({"max_length": 1, "truncation": True}, "max_length is 1; expected at least 2"),
        ({"stride": -1}, "stride is -1"),
        ({"stride": 3, "max_length": 4, "truncation": True}, "stride=3 is too large for max_length=4"),
        ({"stride": 2, "max_length": 4, "truncation": True}, "stride=2 is not less than the 2 tokens"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}, "isn't a multiple"),
        ({"padding_side": "up"}, "padding_side is 'up'"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf'"),
        ({"max_length": 5, "truncation": "only_second"}, "needs a pair"),
        (
            {"text_pair": "x " * 9, "max_length": 5, "truncation": "only_first"},
            "tokens too many, but that text",
        ),
    ],
)
def test_wrong_options_are_refused(tokenizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer("a b c d e", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_lower_case": "no"}, "do_lower_case is 'no'; expected True or False"),
        ({"padding_side": "top"}, "padding_side is 'top'"),
        ({"model_max_length": -1}, "model_max_length is -1"),
        ({"never_split": "word"}, "never_split is 'word'; expected a list"),
        ({"never_split": [""]}, "never_split holds an empty word"),
        ({"unk_token": "[NO]"}, r"no '\[NO\]' \(unk_token\)"),
        ({"clean_text": False}, "clean_text is False; expected True"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False"),
        ({"image_token": "<img>"}, "image_token isn't a special token of BERT's"),
        ({"vocab_file": VOCAB}, "vocab is given beside vocab_file"),
        ({"mask_token": 3}, "a token is 3"),
        ({"extra_special_tokens": "x"}, "extra_special_tokens is 'x'"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_constructor_arguments_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        kind(VOCAB, **options)


def test_wrong_ids_and_tokens_are_refused(tokenizer: Any) -> None:
    for call, message in [
        (lambda: tokenizer.decode([-1]), r"token_ids\[0\] is -1"),
        (lambda: tokenizer.decode(["a"]), "'a'; expected an integer"),
        (lambda: tokenizer.convert_ids_to_tokens(None), "ids is None"),
        (lambda: tokenizer.convert_tokens_to_ids(3), "tokens is 3"),
        (lambda: tokenizer.convert_tokens_to_ids([None]), r"tokens\[0\] is None"),
        (lambda: tokenizer.convert_tokens_to_string("a b"), "expected a list of str"),
        (lambda: tokenizer.add_tokens([""]), "an added token is empty"),
        (lambda: tokenizer.add_tokens(3), "new_tokens is 3"),
        (lambda: tokenizer.add_special_tokens({"nose_token": "x"}), "'nose_token' isn't a special token"),
        (lambda: tokenizer.add_special_tokens({"unk_token": "[NEW]"}), "unk_token"),
    ]:
        before = tokenizer.get_vocab(), tokenizer.special_tokens_map
        with pytest.raises(TokenizerError, match=message):
            call()
        assert (tokenizer.get_vocab(), tokenizer.special_tokens_map) == before


def test_ids_decode_from_lists_tensors_and_batches(tokenizer: Any) -> None:
    ids = tokenizer.encode("hello, world!")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello, world!"
    assert tokenizer.decode(torch.tensor(ids)) == tokenizer.decode(np.array(ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(7592) == "hello"
    assert tokenizer.batch_decode([ids, ids[:2]]) == [tokenizer.decode(ids), "[CLS] hello"]
    assert tokenizer.batch_decode(torch.tensor([ids])) == [tokenizer.decode(ids)]
    assert tokenizer.batch_decode([]) == []


def test_tokens_convert_to_ids_and_back(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids("hello") == 7592
    assert tokenizer.convert_tokens_to_ids(["hello", "nosuchtoken"]) == [7592, 100]
    assert tokenizer.convert_ids_to_tokens(7592) == "hello"
    assert tokenizer.convert_ids_to_tokens(torch.tensor([101, 7592]), skip_special_tokens=True) == ["hello"]
    assert tokenizer.convert_ids_to_tokens([10**6]) == [None]


@pytest.mark.parametrize("second", [None, [7, 8], []])
def test_rows_can_be_built_from_ids(tokenizer: Any, second: list[int] | None) -> None:
    row = tokenizer.build_inputs_with_special_tokens([5, 6, 5], second)
    assert row == [101, 5, 6, 5, 102, *([] if second is None else [*second, 102])]
    assert len(row) - 3 - len(second or []) == tokenizer.num_special_tokens_to_add(pair=second is not None)
    types = tokenizer.create_token_type_ids_from_sequences([5, 6, 5], second)
    assert types == [0] * 5 + [1] * (len(row) - 5)
    mask = tokenizer.get_special_tokens_mask([5, 6, 5], second)
    assert mask == tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True)
    with pytest.raises(TokenizerError, match="expected None"):
        tokenizer.get_special_tokens_mask(row, [1], already_has_special_tokens=True)


def test_special_tokens_have_ids_and_can_be_renamed(fresh: Any) -> None:
    assert (fresh.pad_token_id, fresh.unk_token_id, fresh.mask_token_id) == (0, 100, 103)
    assert fresh.bos_token is None
    assert fresh.bos_token_id is None
    assert fresh.add_special_tokens({"cls_token": "<cls>", "extra_special_tokens": ["<x>"]}) == 2
    assert fresh("hello<x>")["input_ids"] == [30522, 7592, 30523, 102]
    assert fresh.all_special_ids == [100, 102, 0, 30522, 103, 30523]
    fresh.pad_token = "[MASK]"
    assert fresh("a", padding="max_length", max_length=4)["input_ids"][-1] == 103
    with pytest.raises(TokenizerError, match="unknown; use add_special_tokens"):
        fresh.sep_token = "nowherex"
    fresh.pad_token = None
    with pytest.raises(TokenizerError, match="no pad_token"):
        fresh("a", padding=True)


def test_adding_tokens_grows_the_vocabulary_and_leaves_the_given_token_alone(fresh: Any) -> None:
    given = AddedToken("<e>")
    assert fresh.add_tokens([given, "hello"], special_tokens=True) == 2
    assert not given.special
    assert fresh.add_tokens("<e>", special_tokens=True) == 0
    assert (fresh.vocab_size, len(fresh)) == (30522, 30523)
    assert fresh.get_added_vocab()["<e>"] == fresh.get_vocab()["<e>"] == 30522
    assert fresh.decode([30522, 7592, 2088], skip_special_tokens=True) == "world"


def test_options_that_are_built_in_cannot_be_changed_silently(tokenizer: Any) -> None:
    with pytest.raises(AttributeError):
        tokenizer.do_lower_case = False


@pytest.mark.parametrize("words", [["Foo-Bar", "HELLO", "x"], ["Foo-Bar", "[MASK]"]])
def test_never_split_words_stay_whole(words: list[str]) -> None:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Foo-Bar", "foo", "bar", "-", "hello", ",", "x"]
    ids = {token: code for code, token in enumerate(vocab)}
    slow, fast = (kind(ids, never_split=words) for kind in KINDS)
    text = "hello Foo-Bar,\tFoo-Bar HELLO x Foo-Bar"
    unknown = "[UNK]" if "HELLO" in words else "hello"
    expected = ["hello", "foo", "-", "bar", ",", "Foo-Bar", unknown, "x", "Foo-Bar"]
    assert slow.tokenize(text) == fast.tokenize(text) == expected
    encoding = fast(text, return_offsets_mapping=True, add_special_tokens=False)
    assert [text[a:b] for a, b in encoding["offset_mapping"]] == [
        "hello", "Foo", "-", "Bar", ",", "Foo-Bar", "HELLO", "x", "Foo-Bar"
    ]  # fmt: skip
    assert encoding.word_ids() == list(range(9))
    split = ["hello,x", "Foo-Bar", "foo"]
    assert slow.tokenize(split, is_split_into_words=True) == ["hello", ",", "x", "Foo-Bar", "foo"]
    encoding = fast(split, is_split_into_words=True, return_offsets_mapping=True, add_special_tokens=False)
    assert encoding.word_ids() == [0, 0, 0, 1, 2]
    assert encoding["offset_mapping"] == [(0, 5), (5, 6), (6, 7), (0, 7), (0, 3)]
    assert fast.tokenize("") == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_gives_what_padding_at_once_gives(tokenizer: Any, side: str) -> None:
    texts = ["hello", "hello big world", "a"]
    options = {"padding_side": side, "pad_to_multiple_of": 4}
    at_once = tokenizer(texts, padding=True, return_special_tokens_mask=True, **options)
    rows = [dict(tokenizer(text, return_special_tokens_mask=True)) for text in texts]
    assert dict(tokenizer.pad(rows, **options)) == dict(at_once)
    batch = tokenizer(texts, return_special_tokens_mask=True)
    assert dict(tokenizer.pad(batch, **options)) == dict(at_once)
    padded = tokenizer.pad(rows, return_tensors="pt", **options)
    assert padded["input_ids"].tolist() == at_once["input_ids"]
    arrays = [{name: np.array(value) for name, value in row.items()} for row in rows]
    assert isinstance(tokenizer.pad(arrays, **options)["input_ids"], np.ndarray)
    single = tokenizer.pad({"input_ids": [5, 6]}, padding="max_length", max_length=4, padding_side=side)
    assert single["attention_mask"] == ([0, 0, 1, 1] if side == "left" else [1, 1, 0, 0])


def test_pad_keeps_other_keys(tokenizer: Any) -> None:
    padded = tokenizer.pad(
        [{"input_ids": [5], "label": 1}, {"input_ids": [5, 6], "label": 0}], return_tensors="pt"
    )
    assert padded["label"].tolist() == [1, 0]
    assert padded["input_ids"].tolist() == [[5, 0], [5, 6]]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "pad got a list"),
        (None, "pad got a NoneType"),
        ([{"ids": [1]}], "expected input_ids"),
        ({"input_ids": 3}, "input_ids is 3"),
        ([{"input_ids": [1], "x": 1}, {"input_ids": [1]}], "no 'x'"),
        ({"input_ids": [[1], [2]], "attention_mask": [[1]]}, "attention_mask isn't a list of 2 rows"),
        ({"input_ids": [[1], 2]}, "input_ids has the row 2"),
    ],
)
def test_pad_refuses_what_it_cannot_pad(tokenizer: Any, batch: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.pad(batch)


def test_copies_tokenize_alike(fresh: Any) -> None:
    fresh.add_tokens(["new_tok"])
    for again in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):  # noqa: S301  # our own bytes
        assert again.tokenize("Ünaffable new_tok") == fresh.tokenize("Ünaffable new_tok")
        again.add_tokens(["second_tok"])
        assert "second_tok" not in fresh.get_vocab()


def test_threads_share_a_tokenizer_with_different_options(fresh: Any) -> None:
    texts = ["hello world " * count for count in range(1, 6)]

    def encode(length: int) -> BatchEncoding:
        return fresh(texts, truncation=True, max_length=length, padding="max_length")

    def work(at: int) -> bool:
        if at % 10 == 3:
            fresh.add_tokens([f"token{at}"])
        length = 3 + at % 7
        return all(len(row) == length for row in encode(length)["input_ids"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))


def test_model_max_length_is_the_default_limit(fresh: Any) -> None:
    text = "hello " * 9
    assert len(fresh(text, truncation=True, padding="max_length")["input_ids"]) == 11
    fresh.model_max_length = 6
    assert len(fresh(text, truncation=True)["input_ids"]) == 6
    assert len(fresh("hello", padding="max_length")["input_ids"]) == 6
    assert (fresh.max_len_single_sentence, fresh.max_len_sentences_pair) == (4, 3)


def test_model_input_names_decide_what_is_returned() -> None:
    tokenizer = SqueezeBertTokenizerFast(VOCAB, model_input_names=["input_ids", "attention_mask"])
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}
    assert "token_type_ids" in tokenizer("a", return_token_type_ids=True)
