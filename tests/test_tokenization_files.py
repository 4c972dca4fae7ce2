"""Tokenizer directories: ours and transformers' read each other's, and a damaged one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast
from tests.fake_hub import FakeHub

transformers = pytest.importorskip("transformers")

VOCAB = Path(__file__).parent / "data" / "vocab.txt"
KINDS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast, transformers.SqueezeBertTokenizer]
TEXTS = ["Hello [NEW] wörld <ent1>! [MASK] foo  bar", "ÉCOLE new_tok Zürich", "中文 hello [new] UNAFFABLE"]
SMALL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s", "a"]


def changed(tokenizer: Any) -> Any:
    tokenizer.add_tokens(["new_tok", AddedToken("Zürich", single_word=True), "hello"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<ent1>", AddedToken("[NEW]", lstrip=True)]})
    return tokenizer


def assert_same(found: Any, expected: Any) -> None:
    for text in TEXTS:
        encoding = found(text, return_special_tokens_mask=True)
        assert dict(encoding) == dict(expected(text, return_special_tokens_mask=True))
        assert found.tokenize(text) == expected.tokenize(text)
        for skip in (False, True):
            ids = encoding["input_ids"]
            assert found.decode(ids, skip_special_tokens=skip) == expected.decode(
                ids, skip_special_tokens=skip
            )
    assert len(found) == len(expected)
    assert found.get_vocab() == expected.get_vocab()
    assert found.get_added_vocab() == expected.get_added_vocab()
    assert found.special_tokens_map == expected.special_tokens_map
    assert found.all_special_tokens == expected.all_special_tokens
    assert found.all_special_ids == expected.all_special_ids
    assert repr(found.added_tokens_decoder) == repr(expected.added_tokens_decoder)
    for name in ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("writer", KINDS, ids=lambda kind: kind.__module__.split(".")[0] + kind.__name__)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False, "model_max_length": 64},
        {"strip_accents": False, "padding_side": "left"},
        {"tokenize_chinese_chars": False, "truncation_side": "left", "clean_up_tokenization_spaces": True},
    ],
    ids=str,
)
def test_each_tokenizer_reads_what_another_wrote(
    writer: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    written = changed(writer(str(VOCAB), **options))
    written.save_pretrained(tmp_path)
    for reader in KINDS:
        assert_same(reader.from_pretrained(tmp_path), written)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_transformers_auto_tokenizer_reads_ours(kind: Any, tmp_path: Path) -> None:
    written = changed(kind(VOCAB))
    written.save_pretrained(tmp_path)
    assert_same(transformers.AutoTokenizer.from_pretrained(tmp_path), written)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_files_of_a_python_tokenizer_of_transformers_4_are_read(kind: Any, tmp_path: Path) -> None:
    expected = changed(transformers.SqueezeBertTokenizer(vocab=str(VOCAB), do_lower_case=False))
    added = {token: code for token, code in expected.get_added_vocab().items() if code >= 30522}
    special = {
        **expected.special_tokens_map,
        "additional_special_tokens": [
            "<ent1>",
            {"content": "[NEW]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False},
        ],
    }
    decoder = {
        code: json.loads(json.dumps(flags(token))) for code, token in expected.added_tokens_decoder.items()
    }
    write(
        tmp_path,
        {
            "vocab.txt": VOCAB.read_text(encoding="utf-8"),
            "added_tokens.json": added,
            "special_tokens_map.json": special,
            "tokenizer_config.json": {
                "added_tokens_decoder": decoder,
                "additional_special_tokens": ["<ent1>", "[NEW]"],
                "do_basic_tokenize": True,
                "do_lower_case": False,
                "never_split": None,
                "strip_accents": None,
                "tokenizer_class": "BertTokenizer",
            },
        },
    )
    assert_same(kind.from_pretrained(tmp_path), expected)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_added_tokens_without_a_list_of_flags_are_read(kind: Any, tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "vocab.txt": "\n".join(SMALL),
            "added_tokens.json": {"<e>": 8, "more": 9},
            "special_tokens_map.json": {
                "additional_special_tokens": ["<e>"],
                "mask_token": {"content": "[MASK]"},
            },
        },
    )
    tokenizer = kind.from_pretrained(tmp_path)
    assert tokenizer("hello<e>more")["input_ids"] == [2, 5, 8, 9, 3]
    assert tokenizer.decode([5, 8, 9], skip_special_tokens=True) == "hello more"


@pytest.mark.parametrize("code", [float("inf"), float("nan"), 8.5, True, None, "8.0", "9" * 5000, []])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_an_id_that_is_no_integer_is_refused(kind: Any, code: Any, tmp_path: Path) -> None:
    write(tmp_path, {"vocab.txt": "\n".join(SMALL), "added_tokens.json": {"new": code}})
    with pytest.raises(TokenizerError, match="expected an integer"):
        kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_never_split_and_options_survive_a_round_trip(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind(VOCAB, never_split=["Foo", "hello"], mask_token=None, split_special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.never_split == ("Foo", "hello")
    assert again.mask_token is None
    assert again.split_special_tokens
    assert again.tokenize("Foo Hello hello") == tokenizer.tokenize("Foo Hello hello")


@pytest.mark.parametrize("kind", KINDS[:2])
def test_overrides_replace_what_the_files_say(kind: Any, tmp_path: Path) -> None:
    kind(VOCAB).save_pretrained(tmp_path)
    tokenizer = kind.from_pretrained(tmp_path, do_lower_case=False, model_max_length=16)
    assert not tokenizer.do_lower_case
    assert tokenizer.model_max_length == 16
    with pytest.raises(TokenizerError, match="padding_side is 'up'"):
        kind.from_pretrained(tmp_path, padding_side="up")


def test_tokenizer_json_alone_brings_its_normalizer(tmp_path: Path) -> None:
    written = SqueezeBertTokenizerFast(VOCAB, do_lower_case=False)
    written.save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    assert SqueezeBertTokenizer.from_pretrained(tmp_path).tokenize("Hello") == written.tokenize("Hello")


def test_the_rust_library_reads_our_tokenizer_json(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    written = changed(SqueezeBertTokenizer(VOCAB))
    written.save_pretrained(tmp_path)
    rust = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for first, second in zip(TEXTS, reversed(TEXTS), strict=True):
        encoding = rust.encode(first, second)
        assert encoding.ids == written(first, second)["input_ids"]
        assert encoding.type_ids == written(first, second)["token_type_ids"]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_save_vocabulary_writes_a_vocabulary_that_loads(kind: Any, tmp_path: Path) -> None:
    (path,) = changed(kind(VOCAB)).save_vocabulary(tmp_path, filename_prefix="x")
    assert Path(path).name == "x-vocab.txt"
    assert Path(path).read_bytes() == VOCAB.read_bytes()
    with pytest.raises(TokenizerError, match="can't be saved"):
        kind(VOCAB).save_vocabulary(tmp_path / "missing")


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_hub_repository_is_read_at_its_revision(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub() as hub:
        hub.use(monkeypatch)
        hub.push("team/tok", {"vocab.txt": "\n".join(SMALL).encode()})
        hub.push("team/tok", {"vocab.txt": "\n".join([*SMALL, "new"]).encode()}, revision="v2")
        assert len(kind.from_pretrained("team/tok", cache_dir=tmp_path)) == 8
        assert len(kind.from_pretrained("team/tok", cache_dir=tmp_path, revision="v2")) == 9
    assert len(kind.from_pretrained("team/tok", cache_dir=tmp_path, local_files_only=True)) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"[PAD]\n[UNK]\n\xff\n", "isn't UTF-8: byte 12"),
        (b"\n\r\n\n", "is empty"),
        (b"[PAD]\n[UNK]\n[CLS]\n[MASK]\na\n", r"no '\[SEP\]' \(sep_token\)"),
        (b"[PAD]\n[SEP]\n[CLS]\n[MASK]\na\n", r"no '\[UNK\]' \(unk_token\)"),
    ],
)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_malformed_vocabulary_is_refused(kind: Any, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    for make in (lambda: kind(tmp_path / "vocab.txt"), lambda: kind.from_pretrained(tmp_path)):
        with pytest.raises(TokenizerError, match=message):
            make()


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ("missing.txt", "missing.txt can't be read"),
        ({}, "empty"),
        (None, "NoneType; expected the path"),
        ({"[UNK]": "0"}, "maps '\\[UNK\\]' to '0'"),
        ({"a": 0, "b": 0}, "'b' the id 0; expected one of its own"),
        ({"a": -1}, "'a' the id -1; expected 0 or more"),
        ({"a": 0, "b": 2**40}, "'b' the id 1099511627776; expected at most 1000001"),
        ({"a\ud800": 0}, "surrogate"),
    ],
)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_an_impossible_vocabulary_is_refused(kind: Any, vocab: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        kind(vocab)


def edited(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def apply(content: dict[str, Any]) -> dict[str, Any]:
        edit(content)
        return content

    return apply


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("tokenizer.json", lambda _: "{", "isn't JSON"),
        ("tokenizer.json", lambda _: [1], "holds a list; expected an object"),
        ("tokenizer.json", lambda _: {}, "is empty"),
        ("tokenizer.json", edited(lambda j: j["model"].update(type="BPE")), "the model 'BPE'"),
        ("tokenizer.json", edited(lambda j: j.update(model="WordPiece")), "the model 'WordPiece'"),
        ("tokenizer.json", edited(lambda j: j["model"].pop("vocab")), "no vocabulary"),
        ("tokenizer.json", edited(lambda j: j["model"]["vocab"].update(a=10**9)), "the id 1000000000"),
        ("tokenizer.json", edited(lambda j: j["model"]["vocab"].update(a=0)), "expected one of its own"),
        ("tokenizer.json", edited(lambda j: j["model"]["vocab"].update(a="9")), "maps 'a' to '9'"),
        ("tokenizer.json", edited(lambda j: j["model"].update(max_input_chars_per_word=5)), "expected 100"),
        ("tokenizer.json", edited(lambda j: j.update(normalizer=None)), "the normalizer None"),
        ("tokenizer.json", edited(lambda j: j["normalizer"].update(type="NFC")), "the normalizer 'NFC'"),
        ("tokenizer.json", edited(lambda j: j["pre_tokenizer"].update(type="Whitespace")), "pre_tokenizer"),
        ("tokenizer_config.json", lambda _: "nope", "isn't JSON"),
        ("tokenizer_config.json", edited(lambda j: j.update(do_lower_case="yes")), "do_lower_case is 'yes'"),
        ("tokenizer_config.json", edited(lambda j: j.update(padding_side="up")), "padding_side is 'up'"),
        ("tokenizer_config.json", edited(lambda j: j.update(model_max_length="many")), "'many'"),
        ("tokenizer_config.json", edited(lambda j: j.update(sep_token="[NO]")), r"no '\[NO\]' \(sep_token\)"),
        ("tokenizer_config.json", edited(lambda j: j.update(sep_token="\ud800")), "lone surrogate"),
        (
            "tokenizer_config.json",
            edited(lambda j: j.update(extra_special_tokens=["\ud800"])),
            "lone surrogate",
        ),
        ("tokenizer_config.json", edited(lambda j: j.update(sep_token=7)), "a special token is 7"),
        ("tokenizer_config.json", edited(lambda j: j.update(added_tokens_decoder=[])), "expected an object"),
        (
            "tokenizer_config.json",
            edited(lambda j: j.update(added_tokens_decoder={"x": {}})),
            "an added token",
        ),
        (
            "tokenizer_config.json",
            edited(lambda j: j.update(added_tokens_decoder={"12": {"content": "new"}})),
            "the id 12; expected 8",
        ),
        (
            "tokenizer_config.json",
            edited(lambda j: j.update(added_tokens_decoder={"6": {"content": "a"}})),
            "the id 6, in the vocabulary 7",
        ),
    ],
)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_damaged_directory_is_refused(
    kind: Any, name: str, edit: Any, message: str, tmp_path: Path
) -> None:
    kind(dict(zip(SMALL, range(8), strict=True))).save_pretrained(tmp_path)
    content = edit(json.loads((tmp_path / name).read_text(encoding="utf-8")))
    write(tmp_path, {name: content})
    with pytest.raises(TokenizerError, match=message):
        kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_directory_without_a_tokenizer_is_refused(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer.json nor vocab.txt"):
        kind.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError):
        kind.from_pretrained(tmp_path / "missing")


def flags(token: AddedToken) -> dict[str, Any]:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: getattr(token, name) for name in names}


def write(folder: Path, contents: dict[str, Any]) -> None:
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
