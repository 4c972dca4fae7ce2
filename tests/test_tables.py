"""Texts come out of every format as they went in, and what isn't text is refused with its place."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast.errors import InputError
from squeezebert_fast.tables.rows import Input, Record, Rows

TEXTS = ["plain", 'with "quotes", commas', "zwölf Boxkämpfer 北京", "", "  spaces  "]
PAIRS = ["a", "b,", '"', "d", "e"]


def read(path: Path, *arguments: str | None) -> list[Record]:
    return list(Input(str(path), *arguments))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_text_file_gives_its_lines(end: bytes, closed: bool, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(end.join(text.encode() for text in TEXTS) + (end if closed else b""))
    assert [record.text for record in read(path)] == TEXTS


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes("\ufefffirst\n\ufeffsecond\n".encode())
    assert [record.text for record in read(tmp_path / "texts")] == ["first", "\ufeffsecond"]


def test_a_csv_field_may_hold_line_ends(tmp_path: Path) -> None:
    texts = [*TEXTS, "two\nlines"]
    with (tmp_path / "table.CSV").open("w", newline="", encoding="utf-8-sig") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "other"])
        table.writerows([text, "x"] for text in texts)
    assert read(tmp_path / "table.CSV") == [Record(text) for text in texts]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_field_may_be_as_long_as_it_likes(suffix: str, tmp_path: Path) -> None:
    """The csv module's own limit is 131,072 characters."""
    long = "a b" * 100_000
    (tmp_path / f"t.{suffix}").write_text(f"text\nshort\n{long}\n")
    assert [record.text for record in read(tmp_path / f"t.{suffix}")] == ["short", long]


@pytest.mark.parametrize("suffix", ["txt", "csv", "tsv", "jsonl"])
def test_a_line_ends_at_a_line_feed_and_at_nothing_else(suffix: str, tmp_path: Path) -> None:
    texts = [f"one{odd}two" for odd in "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\xa0"] + ["\u2028", "\x0c"]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts] if suffix == "jsonl" else texts
    header = ["text"] if suffix in ("csv", "tsv") else []
    for end in ("\n", "\r\n"):
        (tmp_path / f"t.{suffix}").write_bytes("".join(line + end for line in [*header, *rows]).encode())
        assert [record.text for record in read(tmp_path / f"t.{suffix}")] == texts


def test_a_carriage_return_within_a_line_of_text_or_tsv_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"id\ttext\r\n1\ta\rb\r\n\r\n2\t\r\n")
    assert [record.text for record in read(tmp_path / "t.tsv")] == ["a\rb", ""]
    (tmp_path / "t.txt").write_bytes(b"a\rb\nc")
    assert [record.text for record in read(tmp_path / "t.txt")] == ["a\rb", "c"]


def test_quotes_in_a_tsv_are_ordinary(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('id\tsentence\n1\t"Hello" she said\n2\t"open\n', encoding="utf-8")
    assert [record.text for record in read(tmp_path / "t.tsv", None, "sentence")] == [
        '"Hello" she said',
        '"open',
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_pairs_come_from_two_columns(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{suffix}"
    rows = [{"second": pair, "number": 1, "first": text} for text, pair in zip(TEXTS, PAIRS, strict=True)]
    if suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    else:
        pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    assert read(path, None, "first", "second") == [Record(*pair) for pair in zip(TEXTS, PAIRS, strict=True)]


def test_the_format_can_be_named_against_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "table.dat").write_text("text\none\n")
    assert read(tmp_path / "table.dat", "csv") == [Record("one")]
    assert read(tmp_path / "table.dat") == [Record("text"), Record("one")]


def test_progress_counts_the_bytes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("one\ntwo\nthree\n")
    source = Input(str(tmp_path / "t"))
    assert (source.done, source.size) == (4, 14)
    assert len(list(source)) == 3
    assert source.done == source.size


def test_a_file_is_read_as_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "fine"}\n{"text": "fine too"}\n{"text":\n')
    records = iter(Input(str(tmp_path / "t.jsonl")))
    assert [next(records).text, next(records).text] == ["fine", "fine too"]
    with pytest.raises(InputError, match="line 3: not valid JSON"):
        next(records)


@pytest.mark.parametrize(
    ("name", "content", "arguments", "said"),
    [
        ("t.txt", b"", [], "holds no texts"),
        ("t.txt", b"fine\nbad \xff\xfe\n", [], "t.txt, line 2: the byte 0xff is not UTF-8"),
        (
            "t.txt",
            "text".encode("utf-16"),
            [],
            "t.txt is no text: it begins as UTF-16 does; save it as UTF-8",
        ),
        ("t.json", "[]".encode("utf-16"), [], "t.json is no text: it begins as UTF-16 does"),
        ("t.csv", "text\na\n".encode("utf-16-le"), [], "t.csv is no text: it begins as UTF-16 does"),
        ("t.csv", "text\na\n".encode("utf-16-be"), [], "t.csv is no text: it begins as UTF-16 does"),
        (
            "t.csv",
            gzip.compress(b"text\na\n", mtime=0),
            [],
            "it begins as a .gz file does, but isn't called so",
        ),
        (
            "t.xlsx",
            b"PK\x03\x04\x14\0\n",
            [],
            "it begins as an Excel workbook does, or another .zip file; save",
        ),
        ("t.csv", b"text,n\rone,1\r", [], "line 1: a carriage return without a line feed, outside of quotes"),
        ("t.csv", b"text\none, two\n", [], "1 as in the header; a field that holds ',' stands in quotes"),
        ("t.txt", b"cut \xe4\xb8", [], "line 1: the byte 0xe4 is not UTF-8"),
        ("t.txt", b"a\n", [None, "text"], "which have no columns"),
        ("t.txt", b"a\n", ["xml"], "'xml', expected one of text, csv"),
        ("t.csv", b"", [], "holds no texts"),
        ("t.csv", b"text\n", [], "holds no texts"),
        ("t.csv", b"a,b\n1,2\n", [], "no column 'text'; it has a, b"),
        ("t.csv", b"text,text\n1,2\n", [], "more than one column 'text'"),
        ("t.csv", b"text,b\n1,2\n1\n", [], "line 3: 1 field, expected 2 as"),
        ("t.csv", b"text,b\n1,2\n1,2,3\n", [], "line 3: 3 fields, expected 2"),
        ("t.csv", b'text\n"a"b\n', [], "line 2: "),
        ("t.csv", b'text\na\n"open\n\nb\n', [], "line 3: a quoted field of this row is never closed"),
        ("t.csv", b"text\na\xe9\n", [], "line 2: the byte 0xe9"),
        ("t.csv", b"text\na\n", [None, "text", "other"], "no column 'other'; it has text"),
        ("t.jsonl", b"\n\n", [], "holds no texts"),
        ("t.jsonl", b'{"text": "a"}\n[1]\n', [], "line 2: a JSON list, expected an object"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n', [], "line 1 has no column 'text'; it has a, b"),
        ("t.jsonl", b'{"text": 3}\n', [], "line 1: 'text' is int"),
        ("t.jsonl", b'{"text": "\\ud800"}\n', [], "line 1: 'text' holds a lone surrogate"),
        ("t.jsonl", b'{"text": "a"', [], "line 1: not valid JSON"),
        ("t.jsonl", b"[" * 100_000, [], "line 1: not valid JSON"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(
    name: str, content: bytes, arguments: list[str | None], said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name, *arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def save_dataset(folder: Path, tables: Sequence[Sequence[dict[str, Any]]], features: dict[str, Any]) -> Path:
    """A directory as `datasets.Dataset.save_to_disk` writes it, a file for each table."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    names = [f"data-{at:05}-of-{len(tables):05}.arrow" for at in range(len(tables))]
    for name, rows in zip(names, tables, strict=True):
        table = pyarrow.Table.from_pylist(list(rows))
        with (
            pyarrow.OSFile(str(folder / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as w,
        ):
            w.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


LABEL = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}


def test_a_dataset_directory_gives_its_rows_with_the_names_of_classes(tmp_path: Path) -> None:
    rows = [{"text": text, "label": at % 2} for at, text in enumerate(TEXTS)]
    folder = save_dataset(tmp_path / "set", [rows[:3], rows[3:]], LABEL)
    assert [row.values for row in Rows(str(folder), ["text", "label"], scalars={"label"})] == [
        (row["text"], ("neg", "pos")[row["label"]]) for row in rows
    ]
    assert read(folder) == [Record(text) for text in TEXTS]


def test_a_row_without_a_label_has_none_and_not_one_of_its_own(tmp_path: Path) -> None:
    """Or a classifier would learn a class "-1" or "NaN"."""
    rows = [{"text": "one", "label": 0}, {"text": "two", "label": -1}]
    folder = save_dataset(tmp_path / "set", [rows], LABEL)
    with pytest.raises(InputError, match="row 2: 'label' is null, expected a string"):
        list(Rows(str(folder), ["text", "label"], scalars={"label"}))
    assert [record.text for record in read(folder)] == ["one", "two"]
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1.0}\n{"text": "b", "label": NaN}\n')
    with pytest.raises(InputError, match="line 2: 'label' is nan, expected a label"):
        list(Rows(str(tmp_path / "t.jsonl"), ["text", "label"], scalars={"label"}))
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a", "b"], "label": [float("nan"), 1.0]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match="row 1: 'label' is nan, expected a label"):
        list(Rows(str(tmp_path / "t.parquet"), ["text", "label"], scalars={"label"}))


def test_a_dataset_directory_that_cannot_be_read_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_dataset(tmp_path / "set", [[{"text": "one", "label": -1}]], LABEL)
    with pytest.raises(InputError, match="no column 'review'; it has text, label"):
        read(folder, None, "review")
    both = tmp_path / "both"
    both.mkdir()
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match="holds the splits train, test; give the folder of one"):
        read(both)
    (next(folder.glob("*.arrow"))).write_bytes(b"no arrow")
    with pytest.raises(InputError, match="is not a readable Arrow file"):
        read(folder)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../secret"}]}')
    with pytest.raises(InputError, match="names no files of rows"):
        read(folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install squeezebert-fast\[parquet\]"):
        read(folder)


def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(folder / "state.json"))

    monkeypatch.setattr("squeezebert_fast.tables.sources.is_dataset", refuse)
    with pytest.raises(InputError, match=f"^{tmp_path} can't be read: Permission denied$"):
        read(tmp_path)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the name of the input is '', expected a file"):
        Input("")
    with pytest.raises(InputError, match="doesn't exist"):
        read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("missing", "no column 'missing'; it has text, n"),
        ("n", "row 1: 'n' is int"),
    ],
)
def test_a_parquet_column_must_hold_text(column: str, said: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=said):
        read(tmp_path / "t.parquet", None, column)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a readable parquet file"):
        read(tmp_path / "t.parquet")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pip install squeezebert-fast\[parquet\]"):
        read(tmp_path / "t.parquet")
