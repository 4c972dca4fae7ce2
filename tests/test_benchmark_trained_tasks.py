"""`benchmarks.trained_tasks`: its table says what `evaluate` says of each model that the script leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import trained_tasks
from benchmarks.command import DataMissing
from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertForTokenClassification
from squeezebert_fast.backends import cpu
from tests.cli_helpers import succeeds
from tests.training_helpers import opinions, save_base

needs_native = pytest.mark.skipif(
    cpu.native_module_missing() is not None, reason="the native module is not built"
)
FLOATS = [name for name in trained_tasks.MODELS if name != "distilled-int8"]
PEOPLE = "anna\tB-person\nlives\tO\nin\tO\nparis\tB-location\n\nbob\tB-person\ncarl\tI-person\nwas\tO\n"


def save_runs(folder: Path, cls: Any, labels: list[str]) -> Path:
    """Models of a task as the script leaves them, of different random weights."""
    fields = {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    for seed, name in enumerate(FLOATS):
        (folder / name).mkdir(parents=True)
        save_base(cls, folder / name, seed=seed, **fields)
        summary = {"steps": 9, "epochs": 3, "seconds": 1.5, "threads": 1, "best": {"step": 6}}
        (folder / name / "metrics.json").write_text(json.dumps(summary))
    succeeds("quantize", folder / "distilled", folder / "distilled-int8")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    texts = save_runs(folder / "clinc150", SqueezeBertForSequenceClassification, ["bad", "good", "so so"])
    words = save_runs(
        folder / "wnut17", SqueezeBertForTokenClassification, ["O", "B-person", "I-person", "B-location"]
    )
    for split, count in (("dev", 13), ("test", 37)):  # 37: a batch and a smaller one
        rows = [{"text": text, "label": label} for text, label in opinions(count, count, ("bad", "good"))]
        (texts / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        (words / f"{split}.conll").write_text("\n".join([PEOPLE] * (count % 7)))
    return folder


@needs_native
@pytest.mark.parametrize(
    ("task", "metric", "suffix"), [("clinc150", "accuracy", "jsonl"), ("wnut17", "f1", "conll")]
)
def test_figures_are_those_of_evaluate(runs: Path, task: str, metric: str, suffix: str) -> None:
    rows = trained_tasks.measured(runs / task, repeats=None)
    assert [row["model"] for row in rows] == list(trained_tasks.MODELS)
    for row in rows:
        assert row["metric"] == metric
        for split in ("dev", "test"):
            model = runs / task / row["model"]
            said = json.loads(succeeds("evaluate", runs / task / f"{split}.{suffix}", "-m", model, "--json"))
            (found,) = said.values()
            assert row[split] == {name: found[name] for name in row[split]}
    floats, int8 = rows[-2:]
    assert floats["training"] == {"steps": 9, "epochs": 3, "seconds": 1.5, "threads": 1, "best_step": 6}
    assert int8["training"] == {}
    assert int8["parameters"] == floats["parameters"]
    assert int8["megabytes"] < floats["megabytes"]


@needs_native
def test_the_command_writes_all_tasks_and_prints_a_row_for_each_model(runs: Path, tmp_path: Path) -> None:
    command = [
        "-m",
        "benchmarks.trained_tasks",
        "--runs",
        str(runs),
        "--out",
        str(tmp_path),
        "--threads",
        "1",
    ]
    root = Path(trained_tasks.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *command, "--speed", "--repeats", "1"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "trained_tasks.json").read_text())
    assert str(runs) not in json.dumps(written)
    for task, title in trained_tasks.TASKS.items():
        assert f"| {title} |" in done.stdout
        for row in written["tasks"][task]:
            figure = row["test"][row["metric"]]
            assert row["sentences_per_second"] > 0
            assert any(
                line.startswith(f"| {row['name']} |") and f" {figure:.4f} " in line
                for line in done.stdout.splitlines()
            )


@needs_native
def test_a_model_or_a_file_that_is_missing_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"none has no teacher; examples/train_tasks\.sh"):
        trained_tasks.measured(tmp_path / "none", None)
    copy = tmp_path / "wnut17"
    copy.mkdir()
    for name in trained_tasks.MODELS:
        (copy / name).symlink_to(runs / "wnut17" / name)
    (copy / "dev.conll").write_text(PEOPLE)
    with pytest.raises(DataMissing, match="wnut17 has no file with the test set"):
        trained_tasks.measured(copy, None)
