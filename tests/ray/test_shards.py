"""Shards without a cluster: what travels, what is written, and the types of what is written."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from squeezebert_fast import (
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
)
from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.errors import ColumnError, InputError
from squeezebert_fast.ray.running import warn_of_unequal
from squeezebert_fast.ray.shards import Report, Shard, failure_of, packed, raised_again, unpacked
from squeezebert_fast.ray.work import Embedding, Prediction
from squeezebert_fast.tables.rows import Record
from tests.cli_helpers import run, save_model
from tests.ray.helpers import in_this_process, job_of, joined, texts, write_lines, write_rows


@pytest.mark.parametrize(
    "records",
    [
        [Record("one", place="a, line 1"), Record("", place="a, line 2")],
        [Record("one", "", place="\udcff.csv, line 1"), Record("", "", place="a, line 2")],
        [Record("one", choices=("", "b"), place="a"), Record("☃", choices=("c", "\x00"), place="b")],
        [
            Record("one", place="a", kept={"x": [1, None], "y": float("inf"), "\ud800": "\udfff"}),
            Record("two", place="b"),
        ],
        [Record("", place="a", problem="a: it is no text"), Record("two", place="b")],
    ],
)
def test_records_arrive_as_they_were(records: list[Record]) -> None:
    assert [vars(record) for record in unpacked(packed(records))] == [vars(record) for record in records]


def test_names_in_order_are_rows_in_order() -> None:
    shards = [Shard(file, number) for file in (0, 9, 10, 99_999) for number in (0, 9, 10, 999_999)]
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)


def test_an_error_arrives_as_it_was_and_says_where_it_happened() -> None:
    error = raised_again(failure_of(ColumnError("x has no column 'y'", "y"), "there"), "here")
    assert isinstance(error, InputError)
    assert str(error) == "x has no column 'y' (on the node there)"
    assert str(raised_again(failure_of(error, "here"), "here")) == str(error)


def test_unequal_kernels_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unequal([Report(0, 0, build="avx2"), Report(0, 1, build="avx2"), Report(0, 2, is_end=True)])
    assert not caplog.messages
    warn_of_unequal([Report(0, 0, build="avx512"), Report(0, 1, build="avx2")])
    assert caplog.messages[0].startswith(
        "workers computed with avx2 and avx512, whose bits differ; set SQUEEZEBERT_FAST_ISA"
    )


def parquet(work: Prediction | Embedding, source: Path, folder: Path, **reading: Any) -> pyarrow.Table:
    """What is written of a source, as one table."""
    in_this_process(job_of(work, source, folder, format="parquet", **reading))
    return pyarrow.parquet.read_table(folder)


KINDS = {
    "labels": (SqueezeBertForSequenceClassification, {}, AnswerOptions(top_k=2, all_scores=True), "text"),
    "several": (
        SqueezeBertForSequenceClassification,
        {"problem_type": "multi_label_classification"},
        AnswerOptions(all_scores=True),
        "text",
    ),
    "value": (SqueezeBertForSequenceClassification, {"num_labels": 1}, AnswerOptions(), "text"),
    "entities": (SqueezeBertForTokenClassification, {}, AnswerOptions(), "text"),
    "tokens": (SqueezeBertForTokenClassification, {}, AnswerOptions(aggregate="none"), "text"),
    "answers": (
        SqueezeBertForQuestionAnswering,
        {},
        AnswerOptions(top_k=2, handle_impossible_answer=True),
        "question",
    ),
    "choices": (
        SqueezeBertForMultipleChoice,
        {},
        AnswerOptions(choice_columns="first,second", top_k=2, all_scores=True),
        "text",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_each_kind_are_the_same_in_parquet_as_in_json(kind: str, tmp_path: Path) -> None:
    cls, fields, chosen, column = KINDS[kind]
    model = save_model(cls, tmp_path / "model", **fields)
    lines = [
        json.dumps({column: text, "context": f"{text} it was", "first": text, "second": "slow film"})
        for text in texts(30)
    ]
    source = write_lines(tmp_path / "rows.jsonl", lines)
    work = Prediction(model=str(model), chosen=chosen)
    reading: dict[str, Any] = {"column": column}
    if kind == "answers":
        reading["pair_column"] = "context"
    if kind == "choices":
        reading["choice_columns"] = ("first", "second")
    table = parquet(work, source, tmp_path / "parquet", **reading)
    in_this_process(job_of(work, source, tmp_path / "jsonl", **reading))
    rows = [json.loads(line) for line in joined(tmp_path / "jsonl").splitlines()]
    assert table.to_pylist() == rows
    assert list(table.schema.names) == list(rows[0])
    assert any(value is None for value in rows[0].values()) is False
    assert None in table.column(table.schema.names[-1]).to_pylist()  # an empty text's


def test_columns_of_parquet_keep_their_types(model: Path, tmp_path: Path) -> None:
    kept = pyarrow.table(
        {
            "text": ["good", "", "slow", None],
            "number": pyarrow.array([1, None, 3, 2**60], pyarrow.int64()),
            "small": pyarrow.array([1, 2, 3, None], pyarrow.int8()),
            "day": pyarrow.array([datetime.date(2026, 11, 29), None] * 2),
            "time": pyarrow.array(
                [datetime.datetime(2026, 11, 29, 1, 2, 3)] * 4, pyarrow.timestamp("us", "UTC")
            ),
            "price": pyarrow.array([Decimal("1.20"), None] * 2, pyarrow.decimal128(9, 2)),
            "tags": [["a"], [], None, ["b", None]],
            "bytes": [b"\xff", b"", None, b"a"],
            "score": pyarrow.array([0.5, None] * 2, pyarrow.float32()),
            "state": pyarrow.array(["x", "y"] * 2).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(kept, tmp_path / "rows.parquet")
    work = Prediction(model=str(model))
    found = parquet(work, tmp_path / "rows.parquet", tmp_path / "parts", keep=["all"], shard_rows=3)
    for name in kept.schema.names:
        expected = kept.column(name)
        expected = expected.cast(pyarrow.string()) if name == "state" else expected
        column = found.column("input_score" if name == "score" else name)
        assert column.type == expected.type
        assert column.to_pylist() == expected.to_pylist()
    job = job_of(work, tmp_path / "rows.parquet", tmp_path / "jsonl", keep=["all"], shard_rows=3)
    in_this_process(job)
    asked = ("predict", tmp_path / "rows.parquet", "-m", model, "--keep", "all")
    assert joined(tmp_path / "jsonl") == run(*asked).stdout


def test_files_of_parquet_with_different_types_are_an_error(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "id": [1]}), folder / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "id": ["1"]}), folder / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: 'id' is string, but int64 in .*a\.parquet"):
        parquet(Prediction(model=str(model)), folder, tmp_path / "parts", keep=["id"])
    in_this_process(job_of(Prediction(model=str(model)), folder, tmp_path / "jsonl", keep=["id"]))
    assert joined(tmp_path / "jsonl") == run("predict", folder, "-m", model, "--keep", "id").stdout


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_files_of_parquet_with_different_columns_are_an_error_for_a_table(
    names: tuple[str, str], model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    tables = {"a": {"text": ["a"], "id": [1]}, "b": {"text": ["b"], "id": [2], "more": [3]}}
    for file, name in zip(("one", "two"), names, strict=True):
        pyarrow.parquet.write_table(pyarrow.table(tables[name]), folder / f"{file}.parquet")
    has = "two" if names == ("a", "b") else "one"
    work = Prediction(model=str(model))
    with pytest.raises(
        InputError, match=rf"{has}\.parquet has the column 'more', which .* hasn't; that is for"
    ):
        parquet(work, folder, tmp_path / "parts", keep=["all"])
    assert parquet(work, folder, tmp_path / "some", keep=["id"]).num_rows == 2
    in_this_process(job_of(work, folder, tmp_path / "jsonl", keep=["all"]))
    assert joined(tmp_path / "jsonl") == run("predict", folder, "-m", model, "--keep", "all").stdout


def test_json_values_are_strings_in_parquet(model: Path, tmp_path: Path) -> None:
    rows = [{"text": "good", "x": value} for value in ("01", 1, 1.5, True, None, {"a": [1]}, "☃")]
    source = write_lines(tmp_path / "rows.jsonl", [json.dumps(row) for row in rows])
    found = parquet(Prediction(model=str(model)), source, tmp_path / "parts", keep=["x"])
    assert found.column("x").to_pylist() == ["01", "1", "1.5", "true", None, '{"a": [1]}', "☃"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Rows of which the second has a column more, the third a column less, and the fourth half a character."""
    lines = [
        '{"text": "a", "x": "b"}',
        '{"text": "a", "x": "", "y": ""}',
        '{"text": "a"}',
        r'{"text": "a", "x": "\ud800"}',
    ]
    return write_lines(tmp_path / "rows.jsonl", lines)


def test_rows_that_dont_fit_a_table_are_bad_rows(odd: Path, model: Path, tmp_path: Path) -> None:
    work = Prediction(model=str(model))
    with pytest.raises(
        InputError, match=r"rows\.jsonl, line 2: it has the column 'y', which the first row hasn't"
    ):
        parquet(work, odd, tmp_path / "stop", keep=["all"])
    found = parquet(work, odd, tmp_path / "record", keep=["all"], on_error="record").to_pylist()
    assert [row["x"] for row in found] == ["b", None, None, None]
    assert [bool(row["error"]) for row in found] == [False, True, False, True]
    assert found[3]["error"].startswith(f"{odd}, line 4: 'x' holds a lone surrogate")
    assert [row["label"] is None for row in found] == [False, True, False, True]
    (report, _) = in_this_process(
        job_of(work, odd, tmp_path / "skip", format="parquet", keep=["all"], on_error="skip")
    )
    assert (report.rows, report.errors) == (2, 2)


def test_a_vector_is_null_where_the_row_cant_be_read(model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", ['{"text": "good"}', "{", '{"text": ""}'])
    work = Embedding(model=str(model))
    found = parquet(work, source, tmp_path / "parts", on_error="record").column("vector").to_pylist()
    assert [value is None for value in found] == [False, True, False]
    in_this_process(job_of(work, source, tmp_path / "jsonl", on_error="record"))
    rows = [json.loads(line)["vector"] for line in joined(tmp_path / "jsonl").splitlines()]
    assert rows[1] is None
    assert rows[0] == pytest.approx(found[0], rel=1e-6)


def test_files_without_rows_have_no_parts(model: Path, tmp_path: Path) -> None:
    for name, lines in (("a", ["id,text"]), ("b", ["id,text", "1,good"]), ("c", [])):
        write_lines(tmp_path / f"{name}.csv", lines)
    reports = in_this_process(job_of(Prediction(model=str(model)), tmp_path / "*.csv", tmp_path / "parts"))
    assert [(report.shard, report.rows, report.is_end) for report in reports] == [
        (Shard(0, 0), 0, True),
        (Shard(1, 0), 1, False),
        (Shard(1, 1), 0, True),
        (Shard(2, 0), 0, True),
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "elsewhere"


def test_a_file_keeps_the_name_it_was_given_by(
    elsewhere: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(Path("rows.jsonl"), ['{"text": "good"}', '{"text": 1}'])
    job = job_of(Prediction(model=str(model)), Path("rows.jsonl"), tmp_path / "parts")
    monkeypatch.chdir(elsewhere)  # as a worker may be
    with pytest.raises(InputError, match=r"^rows\.jsonl, line 2: 'text' is int, expected a string$"):
        in_this_process(job)


def test_bytes_read_add_up_to_the_input(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 120)
    reports = in_this_process(job_of(Prediction(model=str(model)), source, tmp_path / "parts"))
    assert sum(report.bytes for report in reports) == source.stat().st_size
