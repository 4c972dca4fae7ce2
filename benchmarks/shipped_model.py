"""The model that ships with the package against its teacher: accuracy, size, speed.

    python -m benchmarks.shipped_model --out benchmarks/results [--teacher DIR] [--student DIR]

on the dev set of SST-2, prints the table and writes shipped_model.json. --teacher and --student are the folders of
the runs that made it (docs/training.md has the commands); without them those rows are left out. Speed is that of
batches of 32 sentences as they come, as many as --batches says, all rows interleaved, with `unpad` where patched.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from benchmarks.command import DataMissing, about, console, exit_with, parser_for, positive, prepare
from benchmarks.report import write_json
from benchmarks.sst2 import BATCH, PATH, batches, read_sentences
from benchmarks.stored import Stored
from squeezebert_fast import (
    SENTIMENT_MODEL,
    SqueezeBertForSequenceClassification,
    SqueezeBertTokenizerFast,
)
from squeezebert_fast.benchmark import measure


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


def read_labels() -> list[int]:
    """The gold labels of the dev set, 1 for positive."""
    _, *lines = PATH.read_text(encoding="utf-8").splitlines()
    return [int(line.rpartition("\t")[2]) for line in lines]


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
    sentences, labels = read_sentences(), torch.tensor(read_labels())
    rows = wanted_rows(chosen.teacher, chosen.student)
    figures, forwards = [], {}
    for row in rows:
        model, tokenizer = row.load(), SqueezeBertTokenizerFast.from_pretrained(row.folder)
        inputs = batches(tokenizer, sentences)

        def forward(
            model: SqueezeBertForSequenceClassification = model,
            inputs: list = inputs[: chosen.batches],
        ) -> None:
            with torch.inference_mode():
                for ids, mask in inputs:
                    model(ids, mask)

        forwards[row.name] = forward
        with torch.inference_mode():
            logits = torch.cat([model(ids, mask).logits for ids, mask in inputs])
        figures.append(
            {
                "name": row.name,
                "accuracy": (logits.argmax(-1) == labels).double().mean().item(),
                "parameters": model.num_parameters(),
                "megabytes": row.megabytes,
            }
        )
    timings = measure(forwards, chosen.repeats, warmup=1)
    timed = min(len(sentences), BATCH * (chosen.batches or len(sentences)))
    table = Table(title=f"SST-2 dev, {len(sentences)} sentences", title_justify="left")
    table.add_column("model")
    for column in ("accuracy", "M parameters", "MB", "sentences a second", f"over {timings[0].name}"):
        table.add_column(column, justify="right")
    for figure, timing in zip(figures, timings, strict=True):
        figure["sentences_per_second"] = timed / timing.median
        figure["speed_up"] = timings[0].median / timing.median
        table.add_row(
            figure["name"],
            f"{figure['accuracy']:.4f}",
            f"{figure['parameters'] / 1e6:.1f}",
            "" if figure["megabytes"] is None else f"{figure['megabytes']:.1f}",
            f"{figure['sentences_per_second']:.0f}",
            f"{figure['speed_up']:.2f}",
        )
    shown.print(table)
    write_json(chosen.out / "shipped_model.json", {**where, "timed_sentences": timed, "rows": figures})
    shown.print(f"wrote {chosen.out / 'shipped_model.json'}")


if __name__ == "__main__":
    exit_with(main)
