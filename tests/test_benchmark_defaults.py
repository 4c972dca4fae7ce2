"""`benchmarks.defaults`: what is held out of public data, and the figures of a run."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import default_data, defaults
from benchmarks.command import DataMissing
from benchmarks.defaults import Run
from squeezebert_fast import SqueezeBertModel
from tests.cli_helpers import succeeds
from tests.training_helpers import opinions, save_base, write_tsv


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Data sets of a few rows each, laid out as the public ones are."""
    intents = [f'"a, {at}",{"card" if at % 3 else "loan"}' for at in range(30)]
    premises = [f"premise {at // 3},hypothesis {at},neutral" for at in range(11)]
    articles = [{"title": str(at), "paragraphs": []} for at in range(12)]
    files = {
        "vocab.txt": "[UNK]\n",
        "banking77/train.csv": "\n".join(["text,category", *intents]),
        "banking77/test.csv": "text,category\nx,card",
        "clinc150/data_full.json": json.dumps({name: [["x", "y"]] for name in ("train", "val", "test")}),
        "sst2/train.tsv": "\n".join(["sentence\tlabel", *[f"row {at}\t1" for at in range(9)]]),
        "sst2/dev.tsv": "sentence\tlabel\nx\t1",
        "snli_dev/dev.csv": "\n".join(["premise,hypothesis,label", *premises]),
        "xquad_en/xquad.en.json": json.dumps({"version": "1.1", "data": articles}),
        "text_masc/corpus.txt": "".join(f"line {at}\n" for at in range(45)),
        **{f"wnut17/{split}.conll": "a\tO\n" for split in ("train", "dev", "test")},
        **{f"copa/{split}.jsonl": "{}\n" for split in ("train", "val")},
        **{f"codah/fold0_{split}.tsv": "o\tHe\tr\ts\tt\tu\t1\n" for split in ("train", "dev", "test")},
    }
    for name, text in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "source"


def test_what_is_held_out_is_not_learnt_from(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_data, "SNLI_TEST", 4)
    out = tmp_path / "out"
    default_data.prepare_data(source, out)
    train, test = (csv_rows(out / "snli_dev" / f"{part}.csv")[1:] for part in ("train", "test"))
    assert [row[1] for row in test] == [f"hypothesis {at}" for at in range(7, 11)]
    assert {row[0] for row in train} == {"premise 0", "premise 1"}  # not 2, which the border cuts
    parts = {
        part: {each["title"] for each in json.loads((out / "xquad_en" / f"{part}.json").read_text())["data"]}
        for part in ("train", "test")
    }
    assert parts["test"] == {"0", "5", "10"}
    assert len(parts["train"]) == 9
    assert not parts["train"] & parts["test"]
    texts = {part: (out / "text_masc" / f"{part}.txt").read_text().splitlines() for part in ("train", "dev")}
    assert texts["dev"] == ["line 0", "line 20", "line 40"]
    assert len(texts["train"]) == 42
    assert not set(texts["train"]) & set(texts["dev"])


def test_few_texts_of_each_intent_are_the_first(source: Path, tmp_path: Path) -> None:
    default_data.prepare_data(source, tmp_path / "out")
    for most in default_data.PER_CLASS:
        _, *rows = csv_rows(tmp_path / "out" / "banking77" / f"train-{most}.csv")
        assert Counter(intent for _, intent in rows) == {"card": min(most, 20), "loan": min(most, 10)}
    assert csv_rows(tmp_path / "out" / "banking77" / "train-5.csv")[1] == ["a, 0", "loan"]
    header, row = (tmp_path / "out" / "codah" / "dev.tsv").read_text().splitlines()
    assert dict(zip(header.split("\t"), row.split("\t"), strict=True))["label"] == "1"


def test_a_data_set_that_is_missing_is_named(source: Path, tmp_path: Path) -> None:
    (source / "copa").rename(source / "gone")
    with pytest.raises(DataMissing, match="no copa"):
        default_data.prepare_data(source, tmp_path / "out")


@pytest.mark.slow
def test_a_runs_figures_are_those_of_evaluate_and_it_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").mkdir()
    save_base(SqueezeBertModel, tmp_path / "data" / "base")
    for part, seed in (("train", 1), ("test", 2)):
        write_tsv(tmp_path / "data" / f"{part}.tsv", opinions(24, seed))
    run = Run("tiny", "opinions", "finetune train.tsv -m base --max-steps 2 --max-length 16", "test.tsv")
    row = defaults.measured(run, tmp_path, threads=1)
    said = succeeds("evaluate", tmp_path / "data" / "test.tsv", "-m", tmp_path / "runs" / "tiny", "--json")
    (found,) = json.loads(said).values()
    assert row["metric"] == "accuracy"
    assert row["scores"]["accuracy"] == found["accuracy"]
    assert (row["steps"], row["training_examples"], row["threads"]) == (2, 24, 1)
    assert row["cpu_seconds"] > 0
    assert row["command"] == f"squeezebert-fast {run.train} -o ../runs/tiny"

    def fails(*_: Any) -> str:
        raise AssertionError

    monkeypatch.setattr(defaults, "_say", fails)
    assert defaults.measured(run, tmp_path, threads=1) == row


def test_tables_have_a_row_for_each_run_that_is_done() -> None:
    row = {
        "task": "classification",
        "training_examples": 10_003,
        "epochs": 3.0,
        "cpu_seconds": 90.0,
        "metric": "accuracy",
        "scores": {"accuracy": 0.93514, "loss": 0.2},
    }
    assert defaults.tasks_table({"banking77": row}).splitlines()[2:] == [
        "| BANKING77, 77 intents | classification | 10,003 | 3 | accuracy 0.9351 | 1.5 |"
    ]
    text = {**row, "metric": "perplexity", "scores": {"perplexity": 123.456}}
    assert defaults.tasks_table({"masc": text}).endswith("| perplexity 123.5 | 1.5 |")
    assert [
        line.split(" | ")[0]
        for line in defaults.curve_table({"banking77-5": row, "banking77": row}).splitlines()[2:]
    ] == [
        "| 5",
        "| all, 35 to 187",
    ]
