"""Special tokens by name and by id: what is set is what padding, encoding, decoding and saved files use."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast

transformers = pytest.importorskip("transformers")

VOCAB = Path(__file__).parent / "data" / "vocab.txt"
KINDS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast]
NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]


@pytest.fixture(params=KINDS)
def fresh(request: pytest.FixtureRequest) -> Any:
    return request.param(VOCAB)


def copies(tokenizer: Any, folder: Path) -> list[Any]:
    """The tokenizer itself, saved and read again by both classes, pickled, copied."""
    tokenizer.save_pretrained(folder)
    again = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301  # our own bytes
    return [tokenizer, *(kind.from_pretrained(folder) for kind in KINDS), again, copy.deepcopy(tokenizer)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", [7592, 103, 1])
def test_an_id_that_is_set_names_its_token(fresh: Any, name: str, code: int, tmp_path: Path) -> None:
    theirs = transformers.SqueezeBertTokenizer(vocab=str(VOCAB))
    for tokenizer in (theirs, fresh):
        setattr(tokenizer, f"{name}_id", code)
    assert getattr(fresh, name) == getattr(theirs, name) == fresh.convert_ids_to_tokens(code)
    assert fresh.special_tokens_map == theirs.special_tokens_map
    for tokenizer in copies(fresh, tmp_path):
        assert getattr(tokenizer, f"{name}_id") == code
        assert getattr(tokenizer, name) == fresh.convert_ids_to_tokens(code)
        assert code in tokenizer.all_special_ids


def test_padding_uses_an_id_that_was_set(fresh: Any, tmp_path: Path) -> None:
    fresh.pad_token_id = 99
    for tokenizer in copies(fresh, tmp_path):
        assert tokenizer("hello", padding="max_length", max_length=5)["input_ids"] == [101, 7592, 102, 99, 99]
        assert tokenizer.pad([{"input_ids": [5]}, {"input_ids": [5, 6]}])["input_ids"][0] == [5, 99]
        assert tokenizer.decode([7592, 99], skip_special_tokens=True) == "hello"
        assert tokenizer(["a", "a b"], padding=True).tokens(0)[-1] == tokenizer.pad_token == "[unused98]"


def test_encoding_uses_ids_that_were_set(fresh: Any, tmp_path: Path) -> None:
    fresh.cls_token_id, fresh.sep_token_id, fresh.unk_token_id, fresh.mask_token_id = 1, 2, 3, 4
    for tokenizer in copies(fresh, tmp_path):
        assert tokenizer("hello", "ⱨⱨ")["input_ids"] == [1, 7592, 2, 3, 2]
        assert tokenizer.build_inputs_with_special_tokens([9]) == [1, 9, 2]
        assert tokenizer.tokenize(tokenizer.mask_token) == ["[unused3]"]
        assert tokenizer.convert_tokens_to_ids("nosuchtoken") == 3


def test_an_added_token_can_be_set_by_its_id(fresh: Any, tmp_path: Path) -> None:
    fresh.add_tokens(["New_Pad"])  # found in lower case: its token is not how it is decoded
    fresh.pad_token_id = 30522
    for tokenizer in copies(fresh, tmp_path):
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("New_Pad", 30522)
        assert tokenizer("hello", padding="max_length", max_length=4)["input_ids"][-1] == 30522


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (30522, "can't be 30522: the vocabulary has no such id; expected less than 30522"),
        (-1, "is -1; expected an integer of at least 0"),
        ("[PAD]", r"is '\[PAD\]'; expected an integer"),
        (1.5, "is 1.5; expected an integer"),
    ],
)
def test_an_unknown_id_is_refused(fresh: Any, name: str, code: Any, message: str) -> None:
    before = fresh.special_tokens_map
    with pytest.raises(TokenizerError, match=f"{name}_id {message}"):
        setattr(fresh, f"{name}_id", code)
    assert fresh.special_tokens_map == before


def test_none_unsets_a_token(fresh: Any, tmp_path: Path) -> None:
    fresh.mask_token_id = None
    fresh.bos_token_id = 5
    fresh.bos_token_id = None
    for tokenizer in copies(fresh, tmp_path):
        assert (tokenizer.mask_token, tokenizer.mask_token_id, tokenizer.bos_token) == (None, None, None)
    fresh.pad_token_id = None
    with pytest.raises(TokenizerError, match="no pad_token"):
        fresh("a", padding=True)


def test_extra_special_tokens_are_set_by_either_name_and_by_id(fresh: Any, tmp_path: Path) -> None:
    fresh.extra_special_tokens = ["hello"]
    assert fresh.additional_special_tokens == ["hello"]
    assert fresh.extra_special_tokens_ids == fresh.additional_special_tokens_ids == [7592]
    fresh.additional_special_tokens = ["[unused1]", AddedToken("[unused2]", lstrip=True)]
    assert fresh.extra_special_tokens == ["[unused1]", "[unused2]"]
    fresh.additional_special_tokens_ids = [7, 8]
    for tokenizer in copies(fresh, tmp_path):
        assert tokenizer.extra_special_tokens == ["[unused6]", "[unused7]"]
        assert tokenizer.extra_special_tokens_ids == [7, 8]
    fresh.extra_special_tokens_ids = None
    assert fresh.extra_special_tokens == []
    with pytest.raises(TokenizerError, match=r"extra_special_tokens can't hold '<new>'.*add_special_tokens"):
        fresh.extra_special_tokens = ["<new>"]
    with pytest.raises(TokenizerError, match="no such id"):
        fresh.extra_special_tokens_ids = [10**6]
    with pytest.raises(TokenizerError, match="expected a list"):
        fresh.extra_special_tokens = "hello"


def test_what_is_built_in_cannot_be_set_without_effect(fresh: Any) -> None:
    for name in ("pad_token_type_id", "never_split", "vocab_size", "all_special_ids", "special_tokens_map"):
        with pytest.raises(AttributeError):
            setattr(fresh, name, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_token_of_which_normalizing_leaves_nothing_is_found_as_it_is_spelled(
    kind: Any, tmp_path: Path
) -> None:
    """The Rust library would look for the empty text, find it everywhere, and panic or cut at each character."""
    tokenizer = kind(VOCAB)
    assert tokenizer.add_tokens(["\u0301", "\u200b", AddedToken("\ue000", normalized=True)]) == 3
    first = len(VOCAB.read_bytes().splitlines())
    for again in copies(tokenizer, tmp_path):
        ids = again("hello e\u0301\u200bhello \ue000é", add_special_tokens=False)["input_ids"]
        e = again.convert_tokens_to_ids("e")
        assert ids == [7592, e, first, first + 1, 7592, first + 2, e]
        assert again.decode(ids) == "hello e \u0301 \u200b hello \ue000 e"


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_may_differ_only_in_case(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind(VOCAB)
    assert (
        tokenizer.add_tokens(["Foo_Bar", "foo_bar", "FOO_BAR", "hello", AddedToken("Hello", lstrip=True)])
        == 5
    )
    first = len(VOCAB.read_bytes().splitlines())
    for again in copies(tokenizer, tmp_path):
        ids = again("Foo_Bar foo_bar xFOO_BARx fOO_bAR hello Hello HELLO", add_special_tokens=False)[
            "input_ids"
        ]
        # Who is spelled exactly so is meant; any other spelling is the first one's.
        x = again.convert_tokens_to_ids("x")
        assert ids == [first, first + 1, x, first + 2, x, first, 7592, first + 3, 7592]
        assert again.convert_ids_to_tokens([first + 1, first + 2]) == ["foo_bar", "FOO_BAR"]
        assert again.added_tokens_decoder[first + 1].normalized
        assert len(again) == first + 4
