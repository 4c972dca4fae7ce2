"""The C++ tokenizer reads the folders that the Python package reads, and refuses damaged ones by name and place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast
from tests.runtime.text_library import BAD_FILE, UNSUPPORTED, RuntimeTextError, RuntimeTokenizer
from tests.test_tokenization_files import SMALL, TEXTS, changed, flags
from tests.test_tokenization_files import write as write_json
from tests.test_tokenization_vocabularies import DAMAGED, ODD, SPECIAL, TEXT

VOCAB = Path(__file__).parents[1] / "data" / "vocab.txt"
CONFIG, PIPELINE = "tokenizer_config.json", "tokenizer.json"
NOT_FOUND = 2


def assert_same(folder: Path, texts: list[str] = TEXTS) -> RuntimeTokenizer:
    """The C++ tokenizer of a folder, which is what Python's of that folder is."""
    python, runtime = SqueezeBertTokenizer.from_pretrained(folder), RuntimeTokenizer(folder)
    for text in texts:
        expected = python(text)
        assert runtime.encode(text) == (expected["input_ids"], expected["token_type_ids"])
    codes = [*range(len(python) + 2)]
    assert [runtime.token(code) for code in codes] == python.convert_ids_to_tokens(codes)
    numbers = (
        len(python),
        python.mask_token_id,
        python.pad_token_id,
        min(python.model_max_length, 2**63 - 1),
    )
    found = (runtime.size, runtime.mask_id, runtime.pad_id, runtime.model_max_length)
    assert found == tuple(-1 if number is None else number for number in numbers)
    return runtime


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False, "model_max_length": 64},
        {"strip_accents": False, "truncation_side": "left"},
        {"tokenize_chinese_chars": False, "split_special_tokens": True},
        {"never_split": ["Foo", "hello", "Zürich"], "mask_token": None, "pad_token": None},
    ],
    ids=str,
)
def test_a_saved_tokenizer_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    written = changed(SqueezeBertTokenizerFast(VOCAB, **options))
    written.save_pretrained(tmp_path)
    assert_same(tmp_path, [*TEXTS, "Foo  hello foo,Foo hello", "hello", " hello ", "Zürich hello"])
    (tmp_path / CONFIG).unlink()
    assert_same(tmp_path)
    (tmp_path / PIPELINE).unlink()
    assert_same(tmp_path)


def test_the_files_of_a_python_tokenizer_of_transformers_4_are_read(tmp_path: Path) -> None:
    tokenizer = changed(SqueezeBertTokenizer(VOCAB, do_lower_case=False))
    decoder = {str(code): flags(token) for code, token in tokenizer.added_tokens_decoder.items()}
    special = {**tokenizer.special_tokens_map, "additional_special_tokens": ["<ent1>", {"content": "[NEW]"}]}
    files = {
        "vocab.txt": VOCAB.read_text(encoding="utf-8"),
        "added_tokens.json": {t: code for t, code in tokenizer.get_added_vocab().items() if code >= 30522},
        "special_tokens_map.json": special,
        CONFIG: {"added_tokens_decoder": decoder, "do_lower_case": False, "model_max_length": 10**30},
    }
    write_json(tmp_path, files)
    assert_same(tmp_path)
    write_json(tmp_path, {CONFIG: {"do_basic_tokenize": True, "never_split": None, "sep_token": None}})
    assert_same(tmp_path)


@pytest.mark.parametrize("token", ["[CLS]", {"content": "[CLS]", "lstrip": True}, None])
@pytest.mark.parametrize("name", ["mask_token", "unk_token", "eos_token"])
def test_special_tokens_of_either_form_are_read(name: str, token: Any, tmp_path: Path) -> None:
    files = {
        "vocab.txt": "\n".join(SMALL),
        "added_tokens.json": {"<e>": 8, "more": 9},
        "special_tokens_map.json": {name: token, "additional_special_tokens": ["<e>", {"content": "new"}]},
    }
    write_json(tmp_path, files)
    if (name, token) == ("unk_token", None):
        with pytest.raises(RuntimeTextError, match=r"no unknown token \(unk_token\)"):
            RuntimeTokenizer(tmp_path)
        return
    assert_same(tmp_path, ["hello<e>more [CLS] new [MASK] q", " [UNK]"])


@pytest.mark.parametrize("lines", [*DAMAGED.values(), [*SPECIAL, *ODD, "hello", "##s", "world"]])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_vocabulary_with_odd_lines_gets_the_ids_of_python(
    lines: list[str], end: str, tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_bytes("".join(line + end for line in lines).encode())
    assert_same(tmp_path, [TEXT])
    (tmp_path / "vocab.txt").write_bytes(("\ufeff" + end.join(lines)).encode())
    assert_same(tmp_path, [TEXT])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\r\n\n", "is empty"),
        (b"[PAD]\n[UNK]\n\xff\n", "isn't UTF-8: byte 12 is malformed"),
        (b"[PAD]\n[UNK]\n[CLS]\n[MASK]\na\n", r"no '\[SEP\]' \(sep_token\)"),
        (b"[PAD]\n[SEP]\n[CLS]\n[MASK]\na\n", r"no '\[UNK\]' \(unk_token\)"),
    ],
)
def test_a_malformed_vocabulary_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(RuntimeTextError, match=message) as raised:
        RuntimeTokenizer(tmp_path)
    assert raised.value.code == BAD_FILE


def edited(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def apply(content: dict[str, Any]) -> dict[str, Any]:
        edit(content)
        return content

    return apply


@pytest.mark.parametrize(
    ("name", "edit", "code", "message"),
    [
        (PIPELINE, lambda _: "{", BAD_FILE, "is not valid JSON: unexpected end of data at byte 1"),
        (PIPELINE, lambda _: [1], BAD_FILE, "tokenizer.json is a list; expected an object"),
        (PIPELINE, lambda _: {}, BAD_FILE, "tokenizer.json has no 'model'"),
        (PIPELINE, lambda _: "[" * 100000, BAD_FILE, "nesting of more than 64 levels at byte 64"),
        (
            PIPELINE,
            edited(lambda j: j["model"].update(type="BPE")),
            UNSUPPORTED,
            "model.type is 'BPE'; expected",
        ),
        (
            PIPELINE,
            edited(lambda j: j.update(model="WordPiece")),
            UNSUPPORTED,
            "model is 'WordPiece'; expected a",
        ),
        (PIPELINE, edited(lambda j: j["model"].pop("vocab")), BAD_FILE, "model has no 'vocab'"),
        (PIPELINE, edited(lambda j: j["model"].update(vocab={})), BAD_FILE, "model.vocab is empty"),
        (
            PIPELINE,
            edited(lambda j: j["model"]["vocab"].update(a=10**9)),
            BAD_FILE,
            "vocab.a is 1000000000; exp",
        ),
        (PIPELINE, edited(lambda j: j["model"]["vocab"].update(a=-1)), BAD_FILE, "vocab.a is -1; expected"),
        (
            PIPELINE,
            edited(lambda j: j["model"]["vocab"].update(a=0)),
            BAD_FILE,
            "is 0; expected an id of its own",
        ),
        (
            PIPELINE,
            edited(lambda j: j["model"]["vocab"].update(a="9")),
            BAD_FILE,
            "vocab.a is '9'; expected a w",
        ),
        (
            PIPELINE,
            edited(lambda j: j["model"].update(max_input_chars_per_word=5)),
            UNSUPPORTED,
            "is 5; expected 100",
        ),
        (
            PIPELINE,
            edited(lambda j: j.update(normalizer=None)),
            UNSUPPORTED,
            "normalizer is null; expected a Bert",
        ),
        (
            PIPELINE,
            edited(lambda j: j["normalizer"].update(type="NFC")),
            UNSUPPORTED,
            "normalizer.type is 'NFC'",
        ),
        (
            PIPELINE,
            edited(lambda j: j["normalizer"].update(clean_text=False)),
            UNSUPPORTED,
            "is false; expected",
        ),
        (CONFIG, lambda _: "nope", BAD_FILE, "tokenizer_config.json is not valid JSON"),
        (
            CONFIG,
            lambda _: '{"a": 1, "b": 2, "a": 3}',
            BAD_FILE,
            "the name 'a' for the second time .* byte 18",
        ),
        (
            CONFIG,
            edited(lambda j: j.update(do_lower_case="yes")),
            BAD_FILE,
            "do_lower_case is 'yes'; expected true",
        ),
        (CONFIG, edited(lambda j: j.update(truncation_side="up")), BAD_FILE, "truncation_side is 'up'"),
        (CONFIG, edited(lambda j: j.update(model_max_length="many")), BAD_FILE, "model_max_length is 'many'"),
        (
            CONFIG,
            edited(lambda j: j.update(model_max_length=1.5)),
            BAD_FILE,
            "model_max_length is 1.5; expected",
        ),
        (CONFIG, edited(lambda j: j.update(sep_token="[NO]")), BAD_FILE, r"no '\[NO\]' \(sep_token\)"),
        (CONFIG, edited(lambda j: j.update(sep_token=7)), BAD_FILE, "sep_token is 7; expected a token"),
        (CONFIG, edited(lambda j: j.update(image_token="a")), UNSUPPORTED, "image_token is 'a'"),
        (CONFIG, edited(lambda j: j.update(never_split=["a b"])), UNSUPPORTED, "never_split has 'a b'"),
        (
            CONFIG,
            edited(lambda j: j.update(added_tokens_decoder=[])),
            BAD_FILE,
            "decoder is a list; expected an o",
        ),
        (CONFIG, edited(lambda j: j.update(added_tokens_decoder={"x": {}})), BAD_FILE, "content|the id 'x'"),
        (
            CONFIG,
            edited(lambda j: j.update(added_tokens_decoder={"12": {"content": "new"}})),
            BAD_FILE,
            "'new' has the id 12; expected 8, the next free one",
        ),
        (
            CONFIG,
            edited(lambda j: j.update(added_tokens_decoder={"6": {"content": "a"}})),
            BAD_FILE,
            "'a' has the id 6; expected 7, as in the vocabulary",
        ),
        (
            CONFIG,
            edited(lambda j: j.update(added_tokens_decoder={"8": {"content": "n" * 300}})),
            UNSUPPORTED,
            "has 300 bytes; expected at most 256",
        ),
    ],
)
def test_a_damaged_folder_is_refused(name: str, edit: Any, code: int, message: str, tmp_path: Path) -> None:
    SqueezeBertTokenizer(dict(zip(SMALL, range(8), strict=True))).save_pretrained(tmp_path)
    write_json(tmp_path, {name: edit(json.loads((tmp_path / name).read_text(encoding="utf-8")))})
    with pytest.raises(RuntimeTextError, match=message) as raised:
        RuntimeTokenizer(tmp_path)
    assert raised.value.code == code
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["merges.txt", "sentencepiece.bpe.model", "spiece.model"])
def test_a_tokenizer_of_another_kind_is_refused_by_its_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(RuntimeTextError, match=f"{name}, of a tokenizer that isn't WordPiece") as raised:
        RuntimeTokenizer(tmp_path)
    assert raised.value.code == UNSUPPORTED


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing", tmp_path / ("x" * 300)):
        with pytest.raises(RuntimeTextError) as raised:
            RuntimeTokenizer(folder)
        assert raised.value.code == NOT_FOUND
    (tmp_path / PIPELINE).mkdir()
    with pytest.raises(RuntimeTextError, match=r"tokenizer.json isn't a file"):
        RuntimeTokenizer(tmp_path)


def test_a_file_beyond_the_expected_size_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / CONFIG).open("wb") as file:
        file.truncate(1 << 40)  # which takes no room on the disk
    with pytest.raises(RuntimeTextError, match="is larger than 8388608 bytes"):
        RuntimeTokenizer(tmp_path)


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    7,
    2**70,
    1e300,
    0.5,
    "",
    "a",
    "[SEP]",
    "\u0301",
    "x" * 400,
    [],
    {},
]
VALUES += [["a"], {"content": "hello"}, {"content": "new", "special": True}, "left", "Right", "##", "\ud800"]


def mutate(value: Any, draw: random.Random) -> Any:
    """A copy with something replaced, removed or added somewhere within."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice([*value])
        changed = {**value, name: mutate(value[name], draw)}
        if draw.random() < 0.1:
            del changed[name]
        if draw.random() < 0.1:
            changed[draw.choice(["lstrip", "special", "5", "8", "unk_token", "strip_accents"])] = draw.choice(
                VALUES
            )
        return changed
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        return [*value[:at], mutate(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


@pytest.mark.parametrize("seed", range(8))
def test_a_folder_that_was_tampered_with_is_refused_or_read_as_in_python(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    tokenizer = SqueezeBertTokenizer(dict(zip(SMALL, range(8), strict=True)))
    tokenizer.add_tokens(["new_tok", AddedToken("Zürich", single_word=True), "hello"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<e>", AddedToken("[NEW]", lstrip=True)]})
    tokenizer.save_pretrained(tmp_path)
    names = [PIPELINE, CONFIG, "special_tokens_map.json", "added_tokens.json"]
    originals = {name: json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in names}
    read = 0
    for _ in range(150):
        files = dict(originals)
        if draw.random() < 0.3:  # then the older files say what was added
            files[CONFIG] = {k: v for k, v in files[CONFIG].items() if k != "added_tokens_decoder"}
        for name in draw.sample(names, draw.randint(1, 2)):
            files[name] = mutate(files[name], draw)
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        try:
            python = SqueezeBertTokenizer.from_pretrained(tmp_path)
            expected = [python(text)["input_ids"] for text in TEXTS]
        except TokenizerError:
            expected = None
        try:
            runtime = RuntimeTokenizer(tmp_path)
        except RuntimeTextError as error:
            message = str(error)
            runtime = None
        if runtime is None:
            assert "\n" not in message
        elif expected is not None:
            read += 1
            assert [runtime.encode(text)[0] for text in TEXTS] == expected, files
    assert read > 10
