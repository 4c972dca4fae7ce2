"""The output is the same bytes whatever the number of workers, the order of their ends, and the faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from squeezebert_fast.ray.work import Prediction
from tests.cli_helpers import run
from tests.ray.helpers import Dies, Uneven, contents, ends_well, joined, on_cluster, write_lines, write_rows

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSV with line ends and delimiters in its fields, leading zeros, empty texts; one of three is compressed."""
    folder = tmp_path_factory.mktemp("tables")
    for at, name in enumerate(("a.csv", "b.csv.gz", "c.csv")):
        rows = [
            f'{number:05d},"{word}, ""so""\nand\n\n{number}",{word}'
            for number, word in enumerate(["good", "bad"] * 60)
        ]
        rows[at * 7] = "00000,,nothing"
        write_lines(folder / name, ["id,text,word", *rows[: 110 - 20 * at]])
    return folder


def test_the_bytes_dont_depend_on_the_number_of_workers(tables: Path, model: Path, tmp_path: Path) -> None:
    asked = ("predict", tables / "*.csv*", "-m", model, "--keep", "id,word")
    outputs = []
    for workers in (1, 2, 4):
        said = ends_well(
            *asked, "-o", tmp_path / str(workers), "--ray", "--workers", workers, "--shard-rows", 32
        )
        assert said.startswith("squeezebert-fast: 270 rows in 10 parts in ")
        assert "3 texts are empty, the first is " in said
        outputs.append(contents(tmp_path / str(workers)))
    assert outputs[0] == outputs[1] == outputs[2]
    assert list(outputs[0])[1:6] == [
        f"part-0000{file}-00000{at}.jsonl" for file, at in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0))
    ]
    assert joined(tmp_path / "1") == run(*asked).stdout
    assert '"id": "00007"' in joined(tmp_path / "1")


def test_the_bytes_dont_depend_on_the_order_in_which_shards_end(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 300)
    usual = on_cluster(Prediction(model=str(model)), source, tmp_path / "usual", workers=1)
    uneven = on_cluster(Uneven(model=str(model)), source, tmp_path / "uneven", workers=4)
    assert joined(usual) == joined(uneven) == run("predict", source, "-m", model).stdout


def test_the_bytes_dont_depend_on_a_worker_that_is_killed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 300)
    text = json.loads(source.read_text().splitlines()[170])["text"]
    folder = tmp_path / "output.unfinished"
    dying = Dies(model=str(model), text=text, marker=str(tmp_path / "killed"), folder=str(folder))
    output = on_cluster(dying, source, tmp_path / "output")
    assert (tmp_path / "killed").exists()
    assert capsys.readouterr().out == ""  # Ray says that it repeats the shard
    assert joined(output) == run("predict", source, "-m", model).stdout
    assert sorted(contents(output)) == ["_job.json", *(f"part-00000-00000{at}.jsonl" for at in range(6))]


def test_vectors_are_those_of_embed(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 120)
    asked = ("embed", source, "-m", model)
    alone = ("-o", tmp_path / "vectors.npy")
    result = run(*asked, *alone)
    assert result.exit_code == 0, result.stderr
    ends_well(*asked, "--keep", "id", "-o", tmp_path / "parts", "--ray", "--workers", 2, "--shard-rows", 50)
    table = pyarrow.parquet.read_table(tmp_path / "parts")
    assert table.column("id").to_pylist() == [str(at) for at in range(120)]
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 16)
    found = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(found, np.load(tmp_path / "vectors.npy"))


def test_an_output_is_an_input(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 60)
    ends_well(
        "predict", "--ray", source, "-m", model, "-o", tmp_path / "parts", "--shard-rows", 25, "--workers", 1
    )
    again = run("predict", tmp_path / "parts", "-m", model, "--keep", "text,label").stdout
    assert [json.loads(row)["text"] for row in again.splitlines()] == [
        json.loads(line)["text"] for line in source.read_text().splitlines()
    ]
