"""The models that examples/train_tasks.sh trains: accuracy or entity F1, size, and speed if asked for.

    python -m benchmarks.trained_tasks --runs OUT --out benchmarks/results [--speed]

OUT is the script's. Evaluates each model of each task on dev and test, prints a Markdown table a task and writes
trained_tasks.json. --speed adds sentences a second: the test set in batches as they come, the models of a task
interleaved, with `unpad`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import DataMissing, about, console, exit_with, parser_for, prepare
from benchmarks.report import write_json
from benchmarks.sst2 import BATCH
from benchmarks.stored import Stored
from squeezebert_fast.benchmark import measure
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.trained_with import TrainedWith
from squeezebert_fast.training.evaluation import FIXED_EPOCH, evaluate
from squeezebert_fast.training.models import load_tokenizer
from squeezebert_fast.training.tasks.base import DataSet, Task

TASKS = {"clinc150": "CLINC150, intents", "wnut17": "WNUT-17, entities"}
MODELS = {
    "teacher": "teacher",
    "labels": "student, labels alone, random start",
    "inherited": "student, labels alone, start fitted to the teacher",
    "distilled": "student, distilled, the same start",
    "distilled-int8": "student, distilled, int8",
}
SPLITS = ("dev", "test")


def stored_models(folder: Path) -> dict[str, Stored]:
    """The models of a task's folder, by their own folder's name. Raises DataMissing unless all are there."""
    for name in MODELS:
        if not (folder / name / "config.json").exists():
            raise DataMissing(f"{folder} has no {name}; examples/train_tasks.sh trains it")
    return {
        name: Stored(shown, folder / name, "int8" if name.endswith("int8") else "float32")
        for name, shown in MODELS.items()
    }


def read_split(
    folder: Path, split: str, task: Task, stored: Stored, model: SqueezeBertPreTrainedModel
) -> DataSet:
    """A task's examples, as many tokens of each as the model was trained with, or else as it takes."""
    source = next(folder.glob(f"{split}.*"), None)
    if source is None:
        raise DataMissing(f"{folder} has no file with the {split} set")
    kept = TrainedWith.of_config(model.config.to_dict()).max_length
    examples, length = task.read(str(source)), kept or model.config.max_position_embeddings
    return DataSet(examples, task.encode(examples, load_tokenizer(stored.folder), model.config, length))


def forward_over(model: SqueezeBertPreTrainedModel, task: Task, data: DataSet) -> Callable[[], None]:
    """What runs `model` over all of `data`, in batches as they come, made beforehand."""
    pad = model.config.pad_token_id or 0
    starts = range(0, len(data.rows), BATCH)
    batches = [task.collate(data.rows[at : at + BATCH], pad, FIXED_EPOCH) for at in starts]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                task.forward(model, batch)

    return run


def run_of(folder: Path) -> dict[str, Any]:
    """How long a model was trained; nothing for one that was quantized from another."""
    path = folder / "metrics.json"
    if not path.exists():
        return {}
    summary = json.loads(path.read_text(encoding="utf-8"))
    return {name: summary[name] for name in ("steps", "epochs", "seconds", "threads")} | {
        "best_step": summary["best"]["step"]
    }


def measured(folder: Path, repeats: int | None) -> list[dict[str, Any]]:
    """A row for each model of a task. repeats: rounds of the timing; None for none."""
    rows, forwards, timed = [], {}, 0
    for name, stored in stored_models(folder).items():
        task, model = stored.task(), stored.load()
        sets = {split: read_split(folder, split, task, stored, model) for split in SPLITS}
        scores = {
            split: evaluate(model, task, data, model.config.pad_token_id or 0, BATCH)
            for split, data in sets.items()
        }
        forwards[name], timed = forward_over(model, task, sets["test"]), len(sets["test"].examples)
        rows.append(
            {
                "model": name,
                "name": stored.name,
                "metric": task.metrics[0],
                **scores,
                "parameters": model.num_parameters(),
                "megabytes": stored.megabytes,
                "training": run_of(stored.folder),
            }
        )
    if repeats is not None:
        for row, timing in zip(rows, measure(forwards, repeats, warmup=1), strict=True):
            row["sentences_per_second"] = timed / timing.median
    return rows


def markdown(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """The rows of a task as a Markdown table."""
    metric = {"f1": "F1"}.get(rows[0]["metric"], rows[0]["metric"])
    lines = [[title, *(f"{metric}, {split}" for split in SPLITS), "million parameters", "MB"]]
    for row in rows:
        scores = [f"{row[split][row['metric']]:.4f}" for split in SPLITS]
        lines.append([row["name"], *scores, f"{row['parameters'] / 1e6:.1f}", f"{row['megabytes']:.1f}"])
    if "sentences_per_second" in rows[0]:
        speeds = [f"{row['sentences_per_second']:.0f}" for row in rows]
        lines = [[*line, last] for line, last in zip(lines, ["sentences a second", *speeds], strict=True)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = parser_for("trained_tasks", __doc__, repeats=5)
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="what train_tasks.sh wrote")
    parser.add_argument("--speed", action="store_true", help="time all models too")
    chosen = parser.parse_args()
    prepare(chosen)
    repeats = chosen.repeats if chosen.speed else None
    where, shown = about("trained_tasks", repeats), console()
    where["command"] = str(where["command"]).replace(str(chosen.runs), "RUNS")
    tasks = {}
    for name, title in TASKS.items():
        tasks[name] = measured(chosen.runs / name, repeats)
        print(markdown(title, tasks[name]), end="\n\n")
    write_json(chosen.out / "trained_tasks.json", {**where, "batch": BATCH, "tasks": tasks})
    shown.print(f"wrote {chosen.out / 'trained_tasks.json'}")


if __name__ == "__main__":
    exit_with(main)
