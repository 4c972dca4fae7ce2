"""Rows that can't be read: an error, left out, or passed on with their reason and place; good rows stay as they are."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from squeezebert_fast import InputError, SqueezeBertForSequenceClassification
from squeezebert_fast.answering.failing import each_answered
from squeezebert_fast.errors import CheckpointError, ColumnError
from squeezebert_fast.tables.rows import Input, Record
from squeezebert_fast.tables.unreadable import Unreadable
from tests.cli_helpers import refuses, run, save_model, succeeds

CASES: dict[str, tuple[str, bytes, list[str], str]] = {
    "JSON that isn't": (
        "a.jsonl",
        b'{"text": "one"}\n{"text": \n{"text": "three"}\n',
        ["one", "three"],
        "line 2",
    ),
    "no object": (
        "a.jsonl",
        b'{"text": "one"}\n["two"]\n{"text": "three"}\n',
        ["one", "three"],
        "expected an object",
    ),
    "no column": (
        "a.jsonl",
        b'{"text": "one"}\n{"txt": "two"}\n{"text": "three"}\n',
        ["one", "three"],
        "'text'",
    ),
    "a number": ("a.jsonl", b'{"text": "one"}\n{"text": 2}\n{"text": "three"}\n', ["one", "three"], "is int"),
    "item": ("a.json", b'[{"text": "one"}, {"text": 2}, {"text": "three"}]', ["one", "three"], "item 2"),
    "bytes": ("a.txt", b"one\ntw\xff\nthree\n", ["one", "three"], "line 2"),
    "fields": ("a.csv", b"text,n\none,1\ntwo,2,2\nthree,3\n", ["one", "three"], "line 3: 3 fields"),
    "quote": ("a.csv", b'text,n\none,1\n"two"2,2\nthree,3\n', ["one", "three"], "line 3"),
    "return": ("a.csv", b"text,n\none,1\ntw\ro,2\nthree,3\n", ["one", "three"], "carriage return"),
    "open quote": ("a.csv", b'text,n\none,1\n"two,2\nthree,3\n', ["one"], "line 3: a quoted field"),
    "quote before": (
        "a.csv",
        b'text,n\none,1\n"two,2\nalso,2\n"so",2\nthree,3\n',
        ["one", "three"],
        "line 5: .*; the row begins in line 3",
    ),
    "tsv": ("a.tsv", b"text\tn\none\t1\ntwo\nthree\t3\n", ["one", "three"], "line 3: 1 field"),
    "the first": ("a.jsonl", b'{"text": \n{"text": "two"}\n', ["two"], "line 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_row_stops_is_left_out_or_says_why(case: str, tmp_path: Path) -> None:
    name, content, good, said = CASES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        list(Input(str(path)))
    skipping = Input(str(path), on_error="skip")
    assert [record.text for record in skipping] == good
    assert skipping.unreadable.count == 1
    assert re.search(said, skipping.unreadable.first)
    recorded = list(Input(str(path), on_error="record"))
    assert [record.text for record in recorded if not record.problem] == good
    (bad,) = [record for record in recorded if record.problem]
    assert re.search(said, bad.problem)
    assert str(path) in bad.problem
    assert bad.is_blank


def test_the_bad_row_stands_where_it_stood_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": null, "x": 0}\n{"id": 3, "text": 3}\nno\n')
    records = list(Input(str(path), keep=["id"], on_error="record"))
    assert [(record.kept, bool(record.problem)) for record in records] == [
        ({"id": 1}, False),
        ({"id": 2}, False),
        ({"id": 3}, True),
        ({"id": None}, True),
    ]


FIRST_IS_BAD = {
    "a.csv": 'id,x,text\n"1"1,x,one\n2,x,two\n',
    "a.tsv": "id\tx\ttext\n1\n2\tx\ttwo\n",
    "a.jsonl": '{"id": 1\n{"id": "2", "x": "x", "text": "two"}\n',
}


@pytest.mark.parametrize("name", FIRST_IS_BAD)
def test_a_bad_row_before_all_good_ones_has_their_columns(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FIRST_IS_BAD[name])
    records = list(Input(str(path), keep=["x,id"], on_error="record"))
    assert [list(record.kept.items()) for record in records] == [
        [("x", None), ("id", None)],
        [("x", "x"), ("id", "2")],
    ]


def test_a_first_row_that_is_bad_has_a_row_in_csv(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(FIRST_IS_BAD["a.csv"])
    result = run("predict", path, "-m", model, "--id", "id", "--on-error", "record", "--format", "csv")
    assert result.exit_code == 0, result.stderr
    assert [row["id"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["", "2"]


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "a.csv": b"text,id,x\none,1,\xff\ntwo,\xff,\nthree,3,\n",
        "a.tsv": b"text\tid\tx\none\t1\t\xff\ntwo\t\xff\t\nthree\t3\t\n",
        "a.jsonl": b'{"text": "one", "x": "\xff", "id": "1"}\n{"text": "two", "id": ["\xff"]}\n'
        b'{"text": "three", "id": "3"}\n',
        "a.json": b'[{"text": "one", "x": "\xff", "id": "1"}, {"text": "two", "id": {"\xff": 1}}, '
        b'{"text": "three", "id": "3"}]',
    }.items(),
)
def test_bytes_that_arent_utf8_are_bad_in_what_is_kept_and_nothing_elsewhere(
    name: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    records = list(Input(str(path), keep=["id"], on_error="record"))
    assert [record.kept["id"] for record in records] == ["1", None, "3"]
    assert [bool(record.problem) for record in records] == [False, True, False]
    assert "'id' holds a byte that isn't UTF-8" in records[1].problem
    assert [record.text for record in Input(str(path), on_error="skip")] == ["one", "two", "three"]


def test_what_is_wrong_with_all_rows_is_an_error_whatever_is_asked(tmp_path: Path) -> None:
    for name, content in {"a.csv": "txt,n\none,1\n", "a.jsonl": '{"txt": "one"}\n{"txt": "two"}\n'}.items():
        path = tmp_path / name
        path.write_text(content)
        for on_error in ("skip", "record"):
            with pytest.raises(ColumnError, match="no column 'text'"):
                Input(str(path), None, "text", on_error=on_error)


def test_a_file_that_breaks_off_is_one_bad_row_and_the_next_file_is_read(tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(20000))
    whole = gzip.compress(lines.encode(), mtime=0)
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"good\n", mtime=0))
    with pytest.raises(InputError, match="damaged"):
        list(Input(str(tmp_path / "*.gz")))
    *before, last = list(Input(str(tmp_path / "*.gz"), on_error="record"))
    assert last.text == "good"
    assert before[-1].problem.endswith("what follows in this file is left out")
    assert [record.text for record in before[:-1]] == lines.splitlines()[: len(before) - 1]
    assert len(before) > 1000


def test_no_row_that_can_be_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("no\nno\n")
    with pytest.raises(InputError, match=r"holds no texts that can be read .*line 1"):
        Input(str(path), on_error="skip")


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--on-error is 'ignore', expected one of stop, skip, record"):
        Input(str(tmp_path), on_error="ignore")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertForSequenceClassification, tmp_path_factory.mktemp("model"))


def rows_of(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_predict_answers_the_good_rows_as_without_the_bad_one(model: Path, tmp_path: Path) -> None:
    path, good = tmp_path / "a.jsonl", tmp_path / "good.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n{"text": "three"}\n')
    good.write_text('{"text": "one"}\n{"text": "three"}\n')
    refuses("predict", path, "-m", model, said="line 2: 'text' is int")
    expected = rows_of(succeeds("predict", good, "-m", model))
    skipped = run("predict", path, "-m", model, "--on-error", "skip")
    assert rows_of(skipped.stdout) == expected
    assert skipped.stderr == (
        f"squeezebert-fast: warning: 1 row can't be read (the first: {path}, line 2: 'text' is int, expected a "
        "string): left out\n"
    )
    recorded = run("predict", path, "-m", model, "--on-error", "record")
    rows = rows_of(recorded.stdout)
    assert [rows[0], rows[2]] == [row | {"error": None} for row in expected]
    assert rows[1] == {
        "text": None,
        "label": None,
        "score": None,
        "error": f"{path}, line 2: 'text' is int, expected a string",
    }
    assert "their rows say so under 'error'" in recorded.stderr


def test_a_kept_column_called_error_steps_aside(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,error\none,e1\ntwo,e2,\n")
    result = run("predict", path, "-m", model, "--keep", "error", "--on-error", "record", "--format", "csv")
    table = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["input_error"] for row in table] == ["e1", ""]
    assert table[0]["error"] == ""
    assert "line 3" in table[1]["error"]


def test_embed_has_no_vector_for_a_bad_row(model: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "a.jsonl", tmp_path / "vectors.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n')
    refuses(
        "embed",
        path,
        "-m",
        model,
        "-o",
        tmp_path / "v.npy",
        "--on-error",
        "record",
        said="have a place for errors",
    )
    run("embed", path, "-m", model, "-o", output, "--on-error", "record")
    one, two = rows_of(output.read_text())
    assert len(one["vector"]) == 16
    assert one["error"] is None
    assert two["vector"] is None
    assert "line 2" in two["error"]


def test_a_row_on_which_the_model_fails_is_a_bad_row_too(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForSequenceClassification, tmp_path / "m")
    weights = load_file(model / "model.safetensors")
    weights["transformer.embeddings.word_embeddings.weight"][1012] = float("nan")  # the full stop's
    save_file(weights, model / "model.safetensors")
    path, output = tmp_path / "a.jsonl", tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a", "b.", "c", "d.")))
    skipped = run("predict", path, "-m", model, "--on-error", "skip")
    assert [row["text"] for row in rows_of(skipped.stdout)] == ["a", "c"]
    assert (
        f"2 rows can't be read (the first: {path}, line 2: the model's answer is not finite" in skipped.stderr
    )
    recorded = rows_of(run("predict", path, "-m", model, "--on-error", "record").stdout)
    assert [(row["text"], row["label"] is None, row["error"] is None) for row in recorded] == [
        ("a", False, True),
        (None, True, False),
        ("c", False, True),
        (None, True, False),
    ]
    assert [row | {"error": None} for row in rows_of(skipped.stdout)] == [recorded[0], recorded[2]]
    run("embed", path, "-m", model, "-o", output, "--on-error", "record")
    assert [row["vector"] is None for row in rows_of(output.read_text())] == [False, True, False, True]
    run("embed", path, "-m", model, "-o", output.with_suffix(".npy"), "--on-error", "skip")
    assert np.load(output.with_suffix(".npy")).shape == (2, 16)


def test_a_row_that_cant_be_read_keeps_its_reason_where_the_model_fails_on_it() -> None:
    def fails(records: Iterable[Record]) -> Iterator[tuple[Record, None]]:
        raise CheckpointError("no answer")
        yield

    bad, good = Record("", place="a, line 1", problem="a, line 1: no JSON"), Record("b", place="a, line 2")
    unreadable = Unreadable("record")
    found = [record.problem for record, _ in each_answered([bad, good], fails, None, unreadable, 1)]
    assert found == ["a, line 1: no JSON", "a, line 2: no answer"]
    assert unreadable.count == 1


def test_records_compare_without_their_problems_place() -> None:
    assert Record("a", place="x") == Record("a", place="y")
    assert Record("a", problem="x") != Record("a")
