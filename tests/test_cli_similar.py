"""`squeezebert-fast similar` finds the neighbours that comparing all vectors with all finds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squeezebert_fast import SqueezeBertModel
from squeezebert_fast.cli import nearest
from squeezebert_fast.cli.shelf import Shelf
from squeezebert_fast.errors import InputError
from tests.cli_helpers import DATA, refuses, run, save_model, succeeds

TABLE = DATA / "banking77.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertModel, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vectors(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "v.npy"
    succeeds("embed", "-m", model, TABLE, "-o", path)
    return path


def texts() -> list[str]:
    with TABLE.open(newline="", encoding="utf-8") as stream:
        return [row["text"] for row in csv.DictReader(stream)]


def cosines(vectors: Path) -> Any:
    unit = np.load(vectors).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("blocks", [(1024, 16384), (5, 7), (24, 1), (1, 24)])
def test_each_text_has_its_nearest_others(
    blocks: tuple[int, int], vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "QUERIES", blocks[0])
    monkeypatch.setattr(nearest, "VECTORS", blocks[1])
    rows = rows_of(succeeds("similar", TABLE, "--vectors", vectors, "--top-k", 3))
    expected = cosines(vectors) - 3 * np.eye(24)
    assert [(row["query_row"], row["rank"]) for row in rows] == [(q, r) for q in range(24) for r in (1, 2, 3)]
    best = np.argsort(-expected, axis=1)[:, :3]
    assert [row["row"] for row in rows] == best.flatten().tolist()
    scores = [float(expected[row["query_row"], row["row"]]) for row in rows]
    assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-6)
    all_texts = texts()
    assert [(row["query"], row["text"]) for row in rows] == [
        (all_texts[row["query_row"]], all_texts[row["row"]]) for row in rows
    ]


def test_vectors_are_made_where_none_are_given(model: Path, vectors: Path) -> None:
    made = rows_of(succeeds("similar", TABLE, "-m", model, "--top-k", 2))
    given = rows_of(succeeds("similar", TABLE, "--vectors", vectors, "--top-k", 2))
    assert [(row["query_row"], row["row"]) for row in made] == [
        (row["query_row"], row["row"]) for row in given
    ]


def test_a_query_finds_itself_first(model: Path, vectors: Path, tmp_path: Path) -> None:
    wanted = [3, 17]
    asked = ["similar", TABLE, "-m", model, "--top-k", 2, "--vectors", vectors]
    by_option = succeeds(*asked, *(word for at in wanted for word in ("--query", texts()[at])))
    rows = rows_of(by_option)
    assert [row["row"] for row in rows if row["rank"] == 1] == wanted
    assert [row["query_row"] for row in rows] == [0, 0, 1, 1]
    assert all(row["score"] == pytest.approx(1, abs=1e-5) for row in rows if row["rank"] == 1)
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({"ask": texts()[at]}) for at in wanted))
    assert succeeds(*asked, "--queries", tmp_path / "q.jsonl", "--query-column", "ask") == by_option


def test_a_least_score_leaves_near_duplicates(tmp_path: Path, model: Path) -> None:
    (tmp_path / "t.txt").write_text("one two three\nsomething else entirely\none two three\n")
    asked = ["similar", tmp_path / "t.txt", "-m", model, "--min-score", 0.9999]
    assert [(row["query_row"], row["row"]) for row in rows_of(succeeds(*asked))] == [(0, 2), (2, 0)]


def test_columns_are_kept_of_both(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;text;score\n1;one;x\n2;two;y\n")
    asked = ["similar", tmp_path / "t.csv", "-m", model, "--id", "id"]
    out = tmp_path / "o.csv"
    succeeds(*asked, "-o", out)
    rows = list(csv.reader(io.StringIO(out.read_text())))
    assert rows[0] == ["query_id", "query_row", "rank", "id", "row", "score"]
    assert [row[:5] for row in rows[1:]] == [["1", "0", "1", "2", "1"], ["2", "1", "1", "1", "0"]]
    row = rows_of(succeeds(*asked, "--keep", "all", "--query", "one"))[0]
    assert list(row) == ["query", "query_row", "rank", "id", "text", "input_score", "row", "score"]
    assert (row["id"], row["input_score"]) == ("1", "x")


def test_a_table_of_no_neighbours_has_its_header(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,text\n1,one\n2,two\n")
    asked = ["similar", tmp_path / "t.csv", "-m", model, "--min-score", 1]
    for options in ([], ["--query", "film"], ["--id", "id"], ["--id", "id", "--query", "film"]):
        header = succeeds(*asked[:-1], -1, *options, "--format", "csv").splitlines()[0]
        assert succeeds(*asked, *options, "--format", "csv") == f"{header}\n"
        succeeds(*asked, *options, "-o", tmp_path / "o.csv")
        assert (tmp_path / "o.csv").read_text() == f"{header}\n"
        assert succeeds(*asked, *options) == ""
    (tmp_path / "one.csv").write_text("text\nalone\n")
    only = ["similar", tmp_path / "one.csv", "-m", model, "--format", "csv"]
    assert succeeds(*only) == "query,query_row,rank,text,row,score\n"


def test_what_is_empty_is_neither_looked_for_nor_found(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n\ntwo\n \n")
    result = run("similar", tmp_path / "t.txt", "-m", model)
    assert [(row["query_row"], row["row"]) for row in rows_of(result.stdout)] == [(0, 2), (2, 0)]
    assert "2 texts are empty, the first is" in result.stderr
    assert run("similar", tmp_path / "t.txt", "-m", model, "--query", "").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model is needed"),
        (["--query", "a", "--vectors", "v.npy"], "--model is needed"),
        (["-m", "m", "--query", "a", "--queries", "q.txt"], "--query and --queries both say"),
        (["--vectors", "short.npy"], "--vectors has 2 rows for 3 texts"),
        (["--vectors", "flat.npy"], "holds float32 [3], expected floating-point vectors [texts, channels]"),
        (["--vectors", "ints.npy"], "holds int64 [3, 2]"),
        (["--vectors", "nan.npy"], "the vector in row 1 is not finite"),
        (["--vectors", "pickled.npy"], "is not a .npy file of vectors"),
        (["--vectors", "t.txt"], "is not a .npy file of vectors"),
        (["--vectors", "none.npy"], "none.npy can't be read"),
        (["--vectors", "v.npy", "--format", "xml"], "the output format is 'xml'"),
        (["--vectors", "v.npy", "-o", "t.txt", "--format", "csv"], "is the input, which it would replace"),
        (["--vectors", "v.npy", "-o", "v.npy", "--format", "csv"], "is the input, which it would replace"),
        (["-m", "MODEL", "--queries", "q.csv", "-o", "q.csv"], "is the input, which it would replace"),
        (["--vectors", "v.npy", "-m", "MODEL", "--query", "a"], "vectors of 2 numbers"),
    ],
)
def test_bad_arguments_are_one_line(
    model: Path, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "q.csv").write_text("text\none\n")
    good = np.ones((3, 2), np.float32)
    for name, value in (
        ("v", good),
        ("short", good[:2]),
        ("flat", good[:, 0]),
        ("ints", good.astype(np.int64)),
        ("nan", good * np.array([[1], [np.nan], [1]], np.float32)),
        ("pickled", np.array([[{}]], dtype=object)),
    ):
        np.save(tmp_path / f"{name}.npy", value)
    words = [str(model) if word == "MODEL" else word for word in arguments]
    refuses("similar", "t.txt", *words, said=said)


def test_rows_come_off_the_shelf_as_they_were_put_there() -> None:
    shelf = Shelf()
    rows: list[dict[str, Any]] = [{"a": "ü\n", "b": [None, 1.5]}, {}, {"c": "x" * 10_000}]
    for at, row in enumerate(rows):
        shelf.append(row)
        assert shelf[at // 2] == rows[at // 2]
    assert [shelf[at] for at in (2, 0, 1)] == [rows[2], rows[0], rows[1]]
    assert len(shelf) == 3


def test_fewer_vectors_than_asked_for_are_all_there_is() -> None:
    block = np.eye(3, dtype=np.float32)
    usable = torch.tensor([True, False, True])
    found = list(nearest.nearest(block, block, 9, usable, among_themselves=True))
    assert found == [[(0.0, 2)], [(0.0, 0), (0.0, 2)], [(0.0, 0)]]
    with pytest.raises(InputError, match="row 0 is not finite"):
        list(nearest.nearest(np.full((1, 3), np.inf), block, 1, usable))
