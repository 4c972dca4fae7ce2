"""Tables as customers have them: parted otherwise, compressed, in several files, as JSON, with columns to keep."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast.errors import ColumnError, InputError
from squeezebert_fast.tables import zstandard_file
from squeezebert_fast.tables.json_lists import items
from squeezebert_fast.tables.rows import Input, Record, Rows
from squeezebert_fast.tables.sources import Source


def texts(source: Path | str, **options: Any) -> list[str]:
    return [record.text for record in Input(str(source), **options)]


def refused(source: Path | str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(Input(str(source), **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_header_without_commas_says_what_parts_it(delimiter: str, tmp_path: Path) -> None:
    rows = [["id", "text"], ["7", '"a, b; ""c"" | d\te"']]
    (tmp_path / "t.csv").write_text("\n".join(delimiter.join(row) for row in rows) + "\n")
    assert texts(tmp_path / "t.csv") == ['a, b; "c" | d\te']


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ("text,a;b\none,2;3\n", "text", "one"),
        ("text\none; two\n", "text", "one; two"),
        ('text\n"one, two"\n', "text", "one, two"),
        ("Review, long;id\none, two;7\n", "Review, long", "one, two"),
        ("id;Review, long;text\n7;x;one, two\n", "text", "one, two"),
        ("id\tReview, long|short\n7\tone|two, three\n", "Review, long|short", "one|two, three"),
        ("\n\nid;text\n7;one, two\n", "text", "one, two"),
        ("a;b\none\n", "a;b", "one"),
        ('"a,b";"c;d"\n"1,2";"one;two"\n', "c;d", "one;two"),
        ('id;"Review\nlong, all"\n7;"one\ntwo"\n', "Review\nlong, all", "one\ntwo"),
    ],
)
def test_the_wanted_column_says_what_parts_a_header(
    content: str, column: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(content)
    assert texts(tmp_path / "t.csv", column=column) == [expected]


def test_rows_say_what_parts_a_header_that_lacks_the_column(tmp_path: Path) -> None:
    rows = "".join(f"{at};fine{', fine' * (at % 2)};good\n" for at in range(50))
    (tmp_path / "t.csv").write_text(f"id;Review, long;label\n{rows}")
    columns = "t.csv has no column 'Review'; it has id, Review, long, label"
    assert columns in refused(tmp_path / "t.csv", column="Review")
    cut_within_a_field = '7;"' + "line, of several\n" * 40 + '";good\n'
    (tmp_path / "t.csv").write_text(f"id;Review, long;label\n{rows}{cut_within_a_field}")
    assert columns in refused(tmp_path / "t.csv", column="Review")
    (tmp_path / "t.csv").write_text("a,b;Review Text\n1,2;3\n")
    assert refused(tmp_path / "t.csv", column="Review") == (
        f"{tmp_path / 't.csv'} has no column 'Review': its header may be parted by ',' (a | b;Review Text) or "
        "by ';' (a,b | Review Text); --delimiter says by which; did you mean 'Review Text'?"
    )
    (tmp_path / "t.csv").write_text("x;text;y,text,z\n1;2;3,4,5\n")
    assert "may have column 'text': its header may be parted by ','" in refused(tmp_path / "t.csv")
    assert texts(tmp_path / "t.csv", delimiter=";") == ["2"]


def test_excels_line_before_the_header_says_what_parts_the_fields(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('\ufeffsep=;\r\nid, no;text\r\n1;"a\r\nb"\r\n2;c\r\n3;d;e\r\n'.encode())
    rows = iter(Input(str(tmp_path / "t.csv")))
    assert [next(rows).text, next(rows).text] == ["a\r\nb", "c"]
    with pytest.raises(InputError, match=r"t.csv, line 6: 3 fields"):
        next(rows)


@pytest.mark.parametrize(
    ("said", "parted"), [(";", ";"), ("tab", "\t"), ("\\t", "\t"), ("~", "~"), ("comma", ",")]
)
def test_a_delimiter_can_be_named(said: str, parted: str, tmp_path: Path) -> None:
    for name in ("t.csv", "t.dat", "t.tsv", "t.txt"):
        (tmp_path / name).write_text(f'id{parted}text\n1{parted}"a{parted}b"\n')
        assert texts(tmp_path / name, delimiter=said) == [f"a{parted}b"]


def test_a_delimiter_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n")
    for said in ("::", "", '"', "\n", "\r", "\0", "tabs"):
        assert refused(tmp_path / "t.csv", delimiter=said) == (
            f"the delimiter is {said!r}, expected one character that is no quote and no line end, or one of tab, "
            "comma, semicolon, space"
        )
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    assert "read as jsonl, which has no delimiter" in refused(tmp_path / "t.jsonl", delimiter=";")


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_is_read_as_what_is_in_it(suffix: str, tmp_path: Path) -> None:
    lines = "".join(f"{number};text {number}\n" for number in range(10_000))
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(COMPRESS[suffix](b"id;text\n") + COMPRESS[suffix](lines.encode()))
    source = Input(str(path))
    assert [record.text for record in source] == [f"text {number}" for number in range(10_000)]
    assert source.done == source.size == path.stat().st_size
    for name, content in (("t.json", '[{"text": "a"}]'), ("t.jsonl", '{"text": "a"}'), ("t", "a")):
        (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](content.encode()))
        assert texts(tmp_path / f"{name}{suffix}") == ["a"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_damaged_compressed_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.txt{suffix}"
    path.write_bytes(b"not compressed\n")
    assert f"{path} is damaged, or not compressed as {suffix} says" in refused(path)
    path.write_bytes(COMPRESS[suffix](bytes(range(65, 90)) * 1000 + b"\n")[:-9])
    assert f"{path} is damaged" in refused(path)


def zstandard() -> Any:
    return pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "zstandard")


def test_zstandard_is_read_over_all_of_its_frames(tmp_path: Path) -> None:
    """The package's own reader ends behind the first, without a word."""
    compress = zstandard().compress
    path = tmp_path / "t.txt.zst"
    path.write_bytes(compress(b"one\ntw") + compress(b"o\nthree\n"))
    assert texts(path) == ["one", "two", "three"]
    path.write_bytes(compress(b"one\n" * 1000)[:-3])
    assert "t.txt.zst is damaged" in refused(path)
    path.write_bytes(b"not compressed")
    assert "t.txt.zst is damaged" in refused(path)


def test_zstandard_without_its_module_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "t.txt.zst").write_bytes(b"x")
    assert "pip install squeezebert-fast[zstd]" in refused(tmp_path / "t.txt.zst")


def test_zstandard_by_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compress = zstandard().compress
    monkeypatch.setattr(zstandard_file, "PIECE", 3)
    (tmp_path / "t.zst").write_bytes(compress(b"a\n") + compress(b"") + compress(b"b\n" * 50))
    assert "".join(Source(str(tmp_path / "t.zst")).lines()) == "a\n" + "b\n" * 50


def test_a_json_list_gives_its_objects(tmp_path: Path) -> None:
    rows = [{"text": f"text {number} ] , [", "n": [number, {"a": None}]} for number in range(5000)]
    for indent in (None, 2):
        (tmp_path / "t.json").write_text(
            "\ufeff\n" + json.dumps(rows, indent=indent) + "\n", encoding="utf-8"
        )
        assert texts(tmp_path / "t.json") == [row["text"] for row in rows]
    (tmp_path / "t.json").write_text("[ ]")
    assert "holds no texts" in refused(tmp_path / "t.json")


def test_a_json_list_is_the_same_in_pieces_of_any_size() -> None:
    spelled = ' [{"a": "\\"] "}\n,{"b": {"c": [1, 2]}}  , {}]  '
    for size in range(1, len(spelled)):
        pieces = (spelled[at : at + size] for at in range(0, len(spelled), size))
        assert list(items(pieces, "t")) == json.loads(spelled)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"text": "a"}',
            "is a JSON object without a list of 'data': neither a list of objects nor questions",
        ),
        ('{"data": [{"paragraphs": 3}]}', "without a list of 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"qas": [3]}]}]}', "has '3' in place of a question"),
        ('{"data": [', "is not valid JSON"),
        ('{"text": "a"}\n{"text": "b"}\n', "; --input-format jsonl reads an object a line"),
        ('"text"', "is not a JSON list of objects: it begins with"),
        ("", "is not a JSON list of objects: it begins with ''"),
        ('[{"text": "a"}, 3]', "item 2: expected a JSON object, found '3]'"),
        ('[{"text": "a"} {"text": "b"}]', "item 1: not followed by a comma"),
        ('[{"text": "a"},', "item 2: expected a JSON object, found ''"),
        ('[{"text": "a"}', "item 1: not followed by a comma or the list's end"),
        ('[{"text": "a}]', "item 1: not valid JSON"),
        ('[{"text": "a"}] more', "'more' follows the JSON list"),
        ('[{"Text": "a"}]', "item 1 has no column 'text'; it has Text; did you mean 'Text'?"),
        ('[{"text": 1}]', "item 1: 'text' is int, expected a string"),
    ],
)
def test_json_that_is_no_list_of_objects_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    assert said in refused(tmp_path / "t.json")


def test_a_first_line_of_json_says_the_format_where_nothing_else_does(tmp_path: Path) -> None:
    for name in ("data", "data.txt"):
        (tmp_path / name).write_text('{"text": "a"}\n{"text": "b"}\n')
        assert texts(tmp_path / name) == ["a", "b"]
        (tmp_path / name).write_text('[\n{"text": "a"},\n{"text": "b"}]\n')
        assert texts(tmp_path / name) == ["a", "b"]
        (tmp_path / name).write_text('{"review": "a"}\n')
        assert "line 1 has no column 'text'; it has review" in refused(tmp_path / name)
        (tmp_path / name).write_text("{not JSON}\n[1] a footnote\n")
        assert texts(tmp_path / name) == ["{not JSON}", "[1] a footnote"]
    assert texts(tmp_path / "data", format="text") == ["{not JSON}", "[1] a footnote"]


def test_a_header_says_the_format_where_it_has_the_column(tmp_path: Path) -> None:
    for delimiter in ",;\t":
        (tmp_path / "data").write_text(f"id{delimiter}review\n1{delimiter}good\n")
        assert texts(tmp_path / "data", column="review") == ["good"]
        (tmp_path / "data").write_text(f"id{delimiter}text\n1{delimiter}good\n")
        assert texts(tmp_path / "data") == ["good"]
    (tmp_path / "data").write_text("text\nmore text\n")
    assert texts(tmp_path / "data") == ["text", "more text"]
    assert texts(tmp_path / "data", column="text") == ["more text"]


def test_files_of_a_folder_follow_one_another_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, row in (("b.csv", "2"), ("a.csv", "1"), ("c.csv.gz", "3")):
        content = f"text\n{row}\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for other in ("_SUCCESS", ".a.csv.crc", "README.md"):
        (tmp_path / other).write_text("no table\n")
    (tmp_path / "inner").mkdir()
    source = Input(str(tmp_path))
    found = list(source)
    assert [record.text for record in found] == ["1", "2", "3"]
    assert found[1].place == f"{tmp_path / 'b.csv'}, line 2"
    assert source.done == source.size == sum((tmp_path / f"{n}").stat().st_size for n in source.files)
    assert texts(tmp_path / "[ab].csv") == ["1", "2"]
    assert texts(tmp_path / "*" / ".." / "a.csv") == ["1"]
    assert [row.place for row in Rows(str(tmp_path / "*.csv"), ["text"])][
        1
    ] == f"{tmp_path / 'b.csv'}, line 2"


def test_what_is_wrong_with_a_later_file_shows_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n1\n")
    (tmp_path / "b.csv").write_text("txt\n2\n")
    with pytest.raises(InputError, match=r"b.csv has no column 'text'; it has txt; did you mean 'txt'\?"):
        Input(str(tmp_path))


def test_folders_and_globs_without_files_are_refused(tmp_path: Path) -> None:
    assert "is a directory without a file to read" in refused(tmp_path)
    assert "no file is called like" in refused(tmp_path / "*.csv")
    (tmp_path / "a.csv").write_text("text\n1\n")
    (tmp_path / "b.txt").write_text("2\n")
    assert "holds files of several formats (csv, text); say which, as by '*.csv'" in refused(tmp_path)
    (tmp_path / "[odd].csv").write_text("text\n3\n")
    assert texts(tmp_path / "[odd].csv") == ["3"]  # a file of that name is no glob


def test_kept_columns_come_as_they_are(tmp_path: Path) -> None:
    row = {"id": 7, "text": "a", "a, b": [1, None], "when": None}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"text": "b", "id": "x"}) + "\n")
    kept = [record.kept for record in Input(str(tmp_path / "t.jsonl"), keep=["all"])]
    assert kept == [row, {"text": "b", "id": "x"}]
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    for keep in (["when, id", "a, b"], ["when", "id", "a, b", "id"]):
        (record,) = Input(str(tmp_path / "t.jsonl"), keep=keep)
        assert list(record.kept.items()) == [("when", None), ("id", 7), ("a, b", [1, None])]
    (tmp_path / "t.csv").write_text('"id",text,"a, b"\n007,x,\n')
    (record,) = Input(str(tmp_path / "t.csv"), keep=["a, b", "id"])
    assert record.kept == {"a, b": "", "id": "007"}


def test_kept_columns_of_parquet_come_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows = [{"id": 1, "text": "a", "x": 0.5}, {"id": 2, "text": None, "x": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert [record.kept for record in Input(str(tmp_path / "t.parquet"), keep=["all"])] == rows
    assert [record.kept for record in Input(str(tmp_path / "t.parquet"), keep=["x"])] == [
        {"x": 0.5},
        {"x": None},
    ]


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("t.csv", "id;Review Text \n1;a\n", {"column": "review text"}, "did you mean 'Review Text '?"),
        ("t.csv", "ID,text\n1,a\n", {"keep": ["id"]}, "no column 'id'; it has ID, text; did you mean 'ID'?"),
        ("t.csv", "id,id,text\n1,2,a\n", {"keep": ["all"]}, "more than one column 'id'"),
        ("t.jsonl", '{"text": "a", "nr": 1}\n{"text": "b"}\n', {"keep": ["nr"]}, "line 2 has no column 'nr'"),
        ("t.txt", "a\n", {"keep": ["id"]}, "lines of text, which have no columns"),
        ("t.csv", ",".join(f"c{n}" for n in range(50)) + "\n", {"column": "x"}, "c19 and 30 more"),
    ],
)
def test_a_missing_column_is_named_with_what_is_there(
    name: str, content: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert said in refused(tmp_path / name, **options)


def test_an_error_of_a_column_reaches_other_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(ColumnError("t.csv has no column 'x'", "x")))  # noqa: S301
    assert (str(error), error.column) == ("t.csv has no column 'x'", "x")


def test_a_text_that_shows_nothing_is_blank() -> None:
    for text in ("", " \t\n", "\u200b\ufeff", "\xa0\u3000", "\x00"):
        assert Record(text).is_blank
        assert Record("a", text).is_blank
        assert Record("a", choices=("b", text)).is_blank
    for text in ("a", " . ", "\U0001fae8", "\ue000"):
        assert not Record(text).is_blank


def test_a_null_is_a_text_without_characters_but_no_label(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": null}\n')
    assert texts(tmp_path / "t.jsonl") == [""]
    with pytest.raises(InputError, match="'text' is null, expected a string"):
        list(Rows(str(tmp_path / "t.jsonl"), ["text"]))


def test_a_first_line_of_any_kind_is_text(tmp_path: Path) -> None:
    for line in ("a,text\rb", 'say "hi, text', "x" * 200_000 + ",a", '"open, text', ",;\t|"):
        (tmp_path / "data").write_bytes(f"{line}\nsecond\n".encode())
        assert texts(tmp_path / "data") == [line, "second"]


def test_the_questions_of_a_squad_file_are_rows(tmp_path: Path) -> None:
    asked = [{"id": "1", "question": "who?", "answers": []}, {"id": "2", "question": "when?"}]
    article = {"title": "T", "paragraphs": [{"context": "Bob, in 1900.", "qas": asked}]}
    (tmp_path / "dev.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    found = list(Input(str(tmp_path / "dev.json"), None, "question", "context", keep=["id", "title"]))
    assert found == [Record("who?", "Bob, in 1900."), Record("when?", "Bob, in 1900.")]
    assert [record.kept for record in found] == [{"id": "1", "title": "T"}, {"id": "2", "title": "T"}]
    assert "item 1 has no column 'text'; it has id, title, question, context" in refused(
        tmp_path / "dev.json"
    )
