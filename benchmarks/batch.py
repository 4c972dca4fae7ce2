"""Batches: what a row costs outside the model, two workers on Ray against two threads, and the driver's memory.

python -m benchmarks.batch --out benchmarks/results                  where a row's time goes; workers against threads
python -m benchmarks.batch --out benchmarks/results --lines 1000000  the memory of the process that drives a long job

Rates are those of going on: the rows by which one file is longer than another, over the seconds that it takes longer,
so that the start of Python, of a cluster and of the models isn't in them. Both ways of working take turns.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.command import about, console, exit_with, parser_for, positive, prepare
from benchmarks.report import write_json
from benchmarks.sst2 import TRAIN, read_sentences
from squeezebert_fast import SqueezeBertConfig, SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast
from squeezebert_fast.answering.options import EngineOptions
from squeezebert_fast.answering.predictor import Predictor
from squeezebert_fast.answering.rows import answered
from squeezebert_fast.cli.writing import row_writer
from squeezebert_fast.shipped import SENTIMENT_MODEL
from squeezebert_fast.tables.rows import Input

BATCH = 256
SHARDS = (8, 24)
"""In the two files: enough for both workers to be there before the shorter one's end, and as many for either."""

WAYS = {
    "one process, 2 threads": ("--threads", "2"),
    "2 workers on Ray, 1 thread each": ("--ray", "--workers", "2", "--threads", "1"),
}
SAMPLE_SECONDS = 2.0


def models(folder: Path) -> dict[str, tuple[Path, int]]:
    """The model that ships, and the base model with random weights, by what the table calls them; rows of a shard."""
    torch.manual_seed(0)
    base = folder / "base"
    SqueezeBertForSequenceClassification(SqueezeBertConfig(num_labels=2)).save_pretrained(base)
    SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL).save_pretrained(base)
    return {
        "sentiment, int8, 5 layers of 384": (SENTIMENT_MODEL, 4096),
        "base, float32, 12 layers of 768": (base, 512),
    }


def write_lines(path: Path, rows: int) -> None:
    """A text file of SST-2's sentences, over and over."""
    sentences = itertools.cycle(read_sentences(path=TRAIN))
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in itertools.islice(sentences, rows))


class Shares:
    """Seconds of all processors, by what they are spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            begin = time.process_time()
            result = run(*arguments)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin
            return result

        return measured


def shares(model: Path, lines: Path, rows: int, output: Path) -> dict[str, float]:
    """Where the time of `predict` goes, in microseconds a row, of all processors: the tokenizer uses several."""
    predictor = Predictor(str(model))
    predictor.load(EngineOptions(threads=1))
    found, steps = Shares(), predictor.steps
    predictor.steps = dataclasses.replace(
        steps,
        encode=found.timed("tokenizer", steps.encode),
        collate=found.timed("padding", steps.collate),
        forward=found.timed("model", steps.forward),
    )
    begin = time.process_time()
    records = Input(str(lines))
    with row_writer(output, "jsonl") as write:
        for record, answer in predictor.run(records, BATCH):
            write(answered(record, record.asked, answer, "stop"))
    found.seconds["reading, answers, writing"] = time.process_time() - begin - sum(found.seconds.values())
    return {name: 1e6 * seconds / rows for name, seconds in found.seconds.items()}


def seconds_of(model: Path, lines: Path, shard: int, way: tuple[str, ...], output: Path) -> float:
    """How long the command takes, from the start of its process to its end."""
    output, parts = (
        (output, ["--shard-rows", str(shard)]) if "--ray" in way else (output.with_suffix(".jsonl"), [])
    )
    command = [sys.executable, "-m", "squeezebert_fast", "predict", str(lines), "-m", str(model)]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "-o", str(output), "--batch-size", str(BATCH), *parts, *way],
        check=True,
        capture_output=True,
    )
    taken = time.perf_counter() - begin
    shutil.rmtree(output) if output.is_dir() else output.unlink()
    return taken


def rates(model: Path, files: dict[int, Path], shard: int, repeats: int, folder: Path) -> dict[str, float]:
    """Rows a second of both ways, the median of rounds in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    shorter, longer = files
    for _ in range(repeats):
        for name, way in WAYS.items():
            short, long = (seconds_of(model, files[rows], shard, way, folder / "out") for rows in files)
            found[name].append((longer - shorter) / (long - short))
    return {name: statistics.median(each) for name, each in found.items()}


def resident_of(process: int) -> int:
    """Bytes that /proc says another process has in memory now."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, "the process has ended"
    return 1024 * int(found[1])


def slope(samples: list[tuple[float, int]]) -> float:
    """Bytes a second, by least squares, over (seconds, bytes)."""
    times, sizes = zip(*samples, strict=True)
    return statistics.linear_regression(times, sizes).slope


def memory_of_driver(lines: Path, output: Path, threads: int) -> list[tuple[float, int]]:
    """Seconds since the start and the driver's resident bytes, every few seconds until the job is done."""
    command = [sys.executable, "-m", "squeezebert_fast", "predict", str(lines), "-o", str(output), "--ray"]
    begin, samples = time.perf_counter(), []
    with subprocess.Popen([*command, "--workers", str(threads), "--batch-size", str(BATCH)]) as process:
        while process.poll() is None:
            with_it = time.perf_counter() - begin
            try:
                samples.append((with_it, resident_of(process.pid)))
            except (AssertionError, FileNotFoundError):  # it ended meanwhile
                break
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit(f"error: predict ended with {process.returncode}")
    return samples


def report_shares(name: str, found: dict[str, float]) -> Table:
    table = Table("microseconds a row", "CPU time", "of all", title=name)
    whole = sum(found.values())
    for part, value in found.items():
        table.add_row(part, f"{value:.1f}", f"{100 * value / whole:.1f} %")
    table.add_row("all", f"{whole:.1f}", "")
    return table


def main() -> None:
    parser = parser_for("batch", __doc__, 3)
    parser.add_argument("--lines", type=positive, help="only a job of so many lines, and its driver's memory")
    chosen = parser.parse_args()
    prepare(chosen)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if chosen.lines:
            long_job(chosen, folder)
        else:
            costs(chosen, folder)


def costs(chosen: Any, folder: Path) -> None:
    results: dict[str, Any] = about("batch", chosen.repeats) | {"batch": BATCH}
    torch.set_num_threads(1)
    for name, (model, shard) in models(folder).items():
        files = {count * shard: folder / f"{count * shard}.txt" for count in SHARDS}
        for rows, path in files.items():
            write_lines(path, rows)
        rows, lines = next(iter(files.items()))
        found = shares(model, lines, rows, folder / "out.jsonl")
        console().print(report_shares(name, found))
        speeds = rates(model, files, shard, chosen.repeats, folder)
        threads, workers = speeds.values()
        for way, speed in speeds.items():
            console().print(f"{way}: {speed:,.0f} rows a second")
        console().print(f"workers over threads: {workers / threads:.3f}")
        results[name] = {
            "shard_rows": shard,
            "microseconds_a_row": found,
            "rows_a_second": speeds,
            "ratio": workers / threads,
        }
    write_json(chosen.out / "batch.json", results)


def long_job(chosen: Any, folder: Path) -> None:
    lines, output = folder / "lines.txt", folder / "labels"
    write_lines(lines, chosen.lines)
    samples = memory_of_driver(lines, output, chosen.threads)
    written = sum(1 for shard in sorted(output.glob("part-*")) for _ in shard.open("rb"))
    if written != chosen.lines:
        sys.exit(f"error: {written} rows were written of {chosen.lines}")
    settled = samples[len(samples) // 4 :]  # from when the cluster and the models are there
    megabytes = [size / 1e6 for _, size in settled]
    seconds = samples[-1][0]
    growth = slope(settled) * seconds / 1e6
    console().print(
        f"{chosen.lines:,} lines in {seconds:.0f} s; the driver's memory from a quarter of the time on: "
        f"{min(megabytes):.0f} to {max(megabytes):.0f} MB, by its slope {growth:+.1f} MB over the job"
    )
    results = about("batch", None) | {"lines": chosen.lines, "seconds": seconds, "growth_megabytes": growth}
    write_json(chosen.out / "batch_memory.json", results | {"seconds_and_bytes": samples})


if __name__ == "__main__":
    exit_with(main)
