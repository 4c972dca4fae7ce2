"""The model that ships with the package against its teacher: accuracy, size, speed.

    python -m benchmarks.shipped_model --out benchmarks/results [--teacher DIR] [--student DIR]

Accuracy on the dev set of SST-2 and on the two tables of examples/ that it was neither trained on nor chosen by, one of
them by domain too. Speed on SST-2's sentences, in batches of 32 as they come, as many as --batches says, all rows
interleaved, with `unpad` where patched. Prints a table of each and writes shipped_model.json. --teacher and --student
are the folders of the runs that made it (examples/train_sentiment.sh); without them those rows are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.command import DataMissing, about, console, exit_with, parser_for, positive, prepare
from benchmarks.report import write_json
from benchmarks.sst2 import BATCH, PATH, batches
from benchmarks.stored import Stored
from squeezebert_fast import (
    SENTIMENT_MODEL,
    SqueezeBertForSequenceClassification,
    SqueezeBertTokenizerFast,
)
from squeezebert_fast.benchmark import measure

EXAMPLES = Path(__file__).parents[1] / "examples"
SST2 = "SST-2 dev"
SETS = {SST2: PATH, "demo": EXAMPLES / "sentiments.tsv", "ten domains": EXAMPLES / "heldout_sentiments.tsv"}
POSITIVE = ("1", "positive")  # in SST-2's words and in ours


@dataclass(frozen=True)
class Sentences:
    """Texts, their labels, [n], 1 for positive, and of each what it is about, where the table says it."""

    texts: list[str]
    labels: Tensor
    domains: list[str]


def read(path: Path) -> Sentences:
    """A table with a header and tabs. Raises DataMissing."""
    if not path.exists():
        raise DataMissing(f"there are no sentences at {path}")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [row.get("text") or row["sentence"] for row in rows]
    labels = torch.tensor([int(row["label"] in POSITIVE) for row in rows])
    return Sentences(texts, labels, [row.get("domain", "") for row in rows])


def wanted_rows(teacher: Path | None, student: Path | None) -> list[Stored]:
    rows = []
    if teacher is not None:
        rows += [Stored("teacher, unpatched", teacher, None), Stored("teacher, float32", teacher)]
        rows += [Stored("teacher, int8", teacher, "int8")]
    if student is not None:
        rows += [Stored("student, float32", student)]
    return [
        *rows,
        Stored("shipped, dequantized, unpatched", SENTIMENT_MODEL, None, dequantize=True),
        Stored("shipped, dequantized, float32", SENTIMENT_MODEL, dequantize=True),
        Stored("shipped, int8", SENTIMENT_MODEL, "int8"),
    ]


def forward_over(
    model: SqueezeBertForSequenceClassification, inputs: list[tuple[Tensor, Tensor]]
) -> Callable[[], Tensor]:
    """What gives the logits of all batches, [sentences, labels]."""

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.cat([model(ids, mask).logits for ids, mask in inputs])

    return run


def accuracies(right: Mapping[str, Tensor], sets: Mapping[str, Sentences]) -> dict[str, Any]:
    """Of each set, and of each domain of the sets that have domains. right: 1 for each right answer of a set, [n]."""
    by_domain: dict[str, list[float]] = {}
    for name, one in sets.items():
        for domain, is_right in zip(one.domains, right[name].tolist(), strict=True):
            if domain:
                by_domain.setdefault(domain, []).append(is_right)
    return {
        "accuracy": {name: values.mean().item() for name, values in right.items()},
        "accuracy_by_domain": {domain: sum(some) / len(some) for domain, some in by_domain.items()},
    }


def accuracy_table(figures: list[dict[str, Any]], sets: Mapping[str, Sentences]) -> Table:
    table = Table("model")
    for column in (*(f"{name}, {len(one.texts)}" for name, one in sets.items()), "M parameters", "MB"):
        table.add_column(column, justify="right")
    for figure in figures:
        table.add_row(
            figure["name"],
            *(f"{figure['accuracy'][name]:.4f}" for name in sets),
            f"{figure['parameters'] / 1e6:.1f}",
            "" if figure["megabytes"] is None else f"{figure['megabytes']:.1f}",
        )
    return table


def speed_table(figures: list[dict[str, Any]]) -> Table:
    table = Table("model")
    for column in ("sentences a second", f"over {figures[0]['name']}"):
        table.add_column(column, justify="right")
    for figure in figures:
        table.add_row(figure["name"], f"{figure['sentences_per_second']:.0f}", f"{figure['speed_up']:.2f}")
    return table


def domains_table(figures: list[dict[str, Any]]) -> Table:
    """Without the unpatched forms, which say what the patched ones do."""
    shown = [figure for figure in figures if not figure["name"].endswith("unpatched")]
    table = Table("domain")
    for figure in shown:
        table.add_column(figure["name"], justify="right")
    for domain in shown[0]["accuracy_by_domain"]:
        table.add_row(domain, *(f"{figure['accuracy_by_domain'][domain]:.2f}" for figure in shown))
    return table


def main() -> None:
    parser = parser_for("shipped_model", __doc__, repeats=5)
    parser.add_argument("--batches", type=positive, default=None, metavar="N", help="time the first N only")
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="the folder of the teacher's run")
    parser.add_argument("--student", type=Path, metavar="DIR", help="the folder of the student's run")
    chosen = parser.parse_args()
    for folder in (chosen.teacher, chosen.student):
        if folder is not None and not folder.is_dir():
            raise DataMissing(f"{folder} is not a directory")
    prepare(chosen)
    where, shown = about("shipped_model", chosen.repeats), console()
    where["command"] = str(where["command"]).replace(str(chosen.teacher), "TEACHER").replace(
        str(chosen.student), "STUDENT"
    )  # fmt: skip
    sets = {name: read(path) for name, path in SETS.items()}
    figures: list[dict[str, Any]] = []
    forwards = {}
    for row in wanted_rows(chosen.teacher, chosen.student):
        model, tokenizer = row.load(), SqueezeBertTokenizerFast.from_pretrained(row.folder)
        inputs = {name: batches(tokenizer, one.texts) for name, one in sets.items()}
        forwards[row.name] = forward_over(model, inputs[SST2][: chosen.batches])
        said = {name: forward_over(model, some)().argmax(-1) for name, some in inputs.items()}
        right = {name: (said[name] == one.labels).double() for name, one in sets.items()}
        sizes = {"parameters": model.num_parameters(), "megabytes": row.megabytes}
        figures.append({"name": row.name, **accuracies(right, sets), **sizes})
    timings = measure(forwards, chosen.repeats, warmup=1)
    sentences = len(sets[SST2].texts)
    timed = min(sentences, BATCH * (chosen.batches or sentences))
    for figure, timing in zip(figures, timings, strict=True):
        figure["sentences_per_second"] = timed / timing.median
        figure["speed_up"] = timings[0].median / timing.median
    shown.print(accuracy_table(figures, sets), domains_table(figures), speed_table(figures))
    write_json(chosen.out / "shipped_model.json", {**where, "timed_sentences": timed, "rows": figures})
    shown.print(f"wrote {chosen.out / 'shipped_model.json'}")


if __name__ == "__main__":
    exit_with(main)
