"""Vocabularies as they are in the wild: odd lines, blank lines, lines that come twice; and saved all or nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast

transformers = pytest.importorskip("transformers")

KINDS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# What Python's str.splitlines or a text file's universal newlines take for the end of a line, and other spaces.
ODD = [
    *(
        "\u2028",
        "\x85",
        "\xa0",
        "\u3000",
        "\u2029",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1d",
        "\x1e",
        " ",
        "\t",
        "\u200b",
    ),
    *("a\u2028b", "a\x85b", "a\rb", "\ufeffa"),
]
TEXT = "hello world\u2028worlds\x85hello a b\xa0world\u3000hello"


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def ids_of(lines: list[str]) -> dict[str, int]:
    return {token: code for code, token in enumerate(lines)}


def assert_same(found: Any, expected: Any) -> None:
    assert found.get_vocab() == expected.get_vocab()
    assert len(found) == len(expected)
    assert found.vocab_size == expected.vocab_size
    ids = expected(TEXT)["input_ids"]
    assert found(TEXT)["input_ids"] == ids
    assert found.convert_ids_to_tokens(range(len(found))) == expected.convert_ids_to_tokens(range(len(found)))
    assert found.decode(ids) == expected.decode(ids)


def assert_saved_and_read_again(tokenizer: Any, folder: Path) -> None:
    """By save_pretrained and by save_vocabulary, into either tokenizer."""
    tokenizer.save_pretrained(folder / "all")
    (vocab,) = tokenizer.save_vocabulary(folder, filename_prefix="only")
    for kind in KINDS:
        assert_same(kind.from_pretrained(folder / "all"), tokenizer)
        assert_same(kind(folder / "all" / "vocab.txt"), tokenizer)
        assert_same(kind(vocab), tokenizer)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_line_ends_at_a_newline_and_nowhere_else(kind: Any, end: str, tmp_path: Path) -> None:
    lines = [*SPECIAL, *ODD, "hello", "##s", "world"]
    tokenizer = kind(write(tmp_path / "vocab.txt", lines, end))
    assert tokenizer.get_vocab() == ids_of(lines)
    assert tokenizer("hello worlds")["input_ids"] == [2, len(lines) - 3, len(lines) - 1, len(lines) - 2, 3]
    assert_saved_and_read_again(tokenizer, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_order_mark_is_no_part_of_the_first_token(kind: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "vocab.txt", ["\ufeff[PAD]", *SPECIAL[1:], "\ufeffhello", "world"])
    tokenizer = kind(path)
    assert tokenizer.get_vocab() == ids_of([*SPECIAL, "\ufeffhello", "world"])
    assert_saved_and_read_again(tokenizer, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_line_separator_of_bert_base_chinese_is_a_token(kind: Any, tmp_path: Path) -> None:
    lines = [*SPECIAL, *(f"[unused{at}]" for at in range(339)), "\u2028", "的", "hello"]
    tokenizer = kind(write(tmp_path / "vocab.txt", lines))
    assert tokenizer.convert_tokens_to_ids(["\u2028", "的", "hello"]) == [344, 345, 346]
    assert tokenizer("hello\u2028的")["input_ids"] == [2, 346, 345, 3]
    assert_saved_and_read_again(tokenizer, tmp_path)


DAMAGED = {
    "blank lines": [*SPECIAL, "hello", "", "world", "", "##s", "a", "b"],
    "double lines": [*SPECIAL, "hello", "world", "hello", "##s", "world", "a", "b"],
    "both": ["", *SPECIAL, "a", "", "hello", "a", "world", "##s", "b", "", "a", "", "hello"],
    "blank at the end": [*SPECIAL, "hello", "world", "##s", "a", "b", "", ""],
    "equal but for spaces": [*SPECIAL, "hello", "hello ", "world\t", "##s", "a", "b"],
}


@pytest.mark.parametrize("lines", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("kind", KINDS)
def test_blank_and_double_lines_get_the_ids_that_transformers_gives(
    kind: Any, lines: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "vocab.txt", lines)
    tokenizer = kind(path)
    theirs = transformers.SqueezeBertTokenizer(vocab=str(path))
    assert tokenizer.get_vocab() == theirs.get_vocab()
    assert tokenizer(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert_saved_and_read_again(tokenizer, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_covers_every_id_and_added_tokens_come_after(kind: Any, tmp_path: Path) -> None:
    # transformers counts tokens: there the last ids are beyond len(tokenizer), and an added token takes one of theirs.
    lines = DAMAGED["both"]
    tokenizer = kind(write(tmp_path / "vocab.txt", lines))
    assert tokenizer.vocab_size == len(tokenizer) == len(lines)
    tokenizer.add_tokens(["new_tok", "hello"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<e>"]})
    assert tokenizer.convert_tokens_to_ids(["new_tok", "<e>"]) == [len(lines), len(lines) + 1]
    assert len(tokenizer) == len(lines) + 2
    ids = tokenizer("hello new_tok<e>world")["input_ids"]
    assert ids == [3, 16, len(lines), len(lines) + 1, 10, 4]
    assert tokenizer.decode(ids) == "[CLS] hello new_tok <e> world [SEP]"
    assert tokenizer.convert_ids_to_tokens([6, 8]) == [None, None]
    tokenizer.save_pretrained(tmp_path / "all")
    for again in KINDS:
        assert_same(again.from_pretrained(tmp_path / "all"), tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_one_warning_names_the_lines(kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "vocab.txt", [*SPECIAL, "a", "", "b", "a", ""])
    with caplog.at_level(logging.WARNING):
        kind(path)
    (record,) = caplog.records
    assert record.name == "squeezebert_fast.tokenization"
    assert "vocab.txt" in record.getMessage()
    assert "lines 7 and 10 are blank" in record.getMessage()
    assert "line 6 comes again as line 9" in record.getMessage()
    caplog.clear()
    kind(write(tmp_path / "one.txt", [*SPECIAL, "a", "", "b"]))
    assert "line 7 is blank" in caplog.text
    caplog.clear()
    kind(write(path, [*SPECIAL, *ODD]))
    assert caplog.records == []


def test_a_warning_about_very_many_lines_is_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SqueezeBertTokenizer(write(tmp_path / "vocab.txt", [*SPECIAL, *[""] * 5000, *["a"] * 5000]))
    (record,) = caplog.records
    assert "and 4990 more are blank" in record.getMessage()
    assert len(record.getMessage()) < 600


@pytest.mark.parametrize("kind", KINDS)
def test_ids_may_leave_gaps_in_a_mapping_too(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind({**ids_of(SPECIAL), "hello": 7, "world": 9})
    assert tokenizer("hello world")["input_ids"] == [2, 7, 9, 3]
    assert len(tokenizer) == 10
    assert_saved_and_read_again(tokenizer, tmp_path)
    with pytest.raises(TokenizerError, match=r"'a' the id 1000000000; expected at most"):
        kind({**ids_of(SPECIAL), "a": 10**9})


@pytest.mark.parametrize("token", ["a\nb", "a ", "a\u2028", "\r", "\ufeffa"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_no_line_can_hold_is_kept_in_tokenizer_json(
    kind: Any, token: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind(ids_of(SPECIAL)).save_pretrained(tmp_path)
    tokenizer = kind(ids_of([token, *SPECIAL, "a", "b", "hello", "world", "##s"]))
    written = tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    assert all(Path(path).is_file() for path in written)
    assert f"{token!r} can't be a line of vocab.txt" in caplog.text
    for again in KINDS:
        assert_same(again.from_pretrained(tmp_path), tokenizer)
    with pytest.raises(TokenizerError, match=r"can't be a line of vocab.txt"):
        tokenizer.save_vocabulary(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_odd_added_tokens_survive_a_round_trip(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind(ids_of([*SPECIAL, "hello", "world", "##s", "a", "b"]))
    added = ["x\u2028y", "x\x85y", "x\ny", "x\r\ny", "\u3000z"]
    tokenizer.add_special_tokens({"extra_special_tokens": added, "bos_token": "<\u2029>"})
    tokenizer.save_pretrained(tmp_path)
    for again in KINDS:
        found = again.from_pretrained(tmp_path)
        assert_same(found, tokenizer)
        assert found("ax\u2028yb")["input_ids"] == tokenizer("ax\u2028yb")["input_ids"] == [2, 8, 10, 9, 3]
        assert found.extra_special_tokens == added
        assert found.bos_token == "<\u2029>"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failing", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_written_whole_or_not_at_all(
    kind: Any, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kind(ids_of([*SPECIAL, "a"]))
    first.add_tokens(["new_tok"])
    first.save_pretrained(tmp_path)
    before = contents(tmp_path)
    second = kind(ids_of([*SPECIAL, "a", "b"]))
    second.add_tokens(["other_tok"])
    write_bytes, calls = Path.write_bytes, iter(range(100))

    def full_disk(path: Path, data: bytes) -> int:
        if next(calls) == failing:
            write_bytes(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(TokenizerError, match=r"can't be saved.*No space left"):
        second.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert contents(tmp_path) == before
    second.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).get_vocab() == second.get_vocab()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_file_is_written_whole_or_not_at_all(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind(ids_of([*SPECIAL, "a"])).save_vocabulary(tmp_path)
    before = contents(tmp_path)

    def full_disk(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(TokenizerError, match=r"can't be saved.*No space left"):
        kind(ids_of([*SPECIAL, "b"])).save_vocabulary(tmp_path)
    assert contents(tmp_path) == before


def test_files_have_the_same_bytes_on_every_platform(tmp_path: Path) -> None:
    SqueezeBertTokenizer(ids_of([*SPECIAL, "a"])).save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert b"\r" not in path.read_bytes()
        assert path.read_bytes().endswith(b"\n")
        if path.suffix == ".json":
            json.loads(path.read_bytes())
