"""Inputs, outputs, and models that fail in ways of their own."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from squeezebert_fast.cli.ray_options import RayOptions, run_on_ray
from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.ray.job import Job, plan
from squeezebert_fast.ray.shards import Report, raised_again
from squeezebert_fast.ray.work import Loaded, Prediction, Row, Work
from squeezebert_fast.ray.worker import Worker
from squeezebert_fast.tables.rows import Input, Record
from tests.cli_helpers import run

WORDS = ["good", "bad", "film", "food", "slow", "great", "never", "the", "a", "of", "it", "naïve", "\u2603"]


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 0 to 11 words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, 11))) for _ in range(count)]


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """A file of JSON lines: id and text."""
    rows = [{"id": at, "text": text} for at, text in enumerate(texts(count, seed))]
    return write_lines(path, [json.dumps(row, ensure_ascii=False) for row in rows])


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """What the files of a folder hold."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def joined(folder: Path) -> str:
    """The parts of an output one after the other, as their names are in order."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("part-*"))).decode()


def ends_well(*arguments: object) -> str:
    """stderr of a command with --ray that must end well: what was done, and warnings."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stdout == ""
    return result.stderr


def on_cluster(work: Work, source: Path, output: Path, on_error: str = "stop", **options: Any) -> Path:
    """The output of a job of this work on the cluster that this process is connected to."""
    reading = {"on_error": on_error}
    chosen = RayOptions(ray="auto", **{"workers": 2, "shard_rows": 50, **options})
    run_on_ray(chosen, work, Input(str(source), **reading), reading, output, "jsonl", "their answer is null")
    return output


def job_of(
    work: Work, source: Path, folder: Path, *, format: str = "jsonl", shard_rows: int = 50, **reading: Any
) -> Job:
    """A job, in a folder that is ready for its parts."""
    reading = {"on_error": "stop", **reading}
    job = plan(
        work,
        work.load(),
        Input(str(source), **reading),
        reading,
        folder,
        format=format,
        shard_rows=shard_rows,
    )
    (folder / "_reports").mkdir(parents=True)
    (folder / "_job.json").write_text("{}")
    return job


def in_this_process(job: Job) -> list[Report]:
    """What a cluster does, without one: read, compute and write all shards. Raises what is wrong with them."""
    from squeezebert_fast.ray.source import _shards_of

    worker, reports = Worker(job), []
    for file in range(len(job.files)):
        for shard in _shards_of(job, file, frozenset()):
            (said,) = map(json.loads, worker(shard).column("said").to_pylist())
            if "kind" in said:
                raise raised_again(said, said["host"])
            reports.append(Report(**said))
    return reports


@dataclass(frozen=True, kw_only=True)
class Disturbed(Prediction):
    """A model before which something happens with the records that it is asked."""

    def load(self) -> Loaded:
        loaded = super().load()

        def run(records: Iterable[Record]) -> Iterator[tuple[Record, Row]]:
            chosen = list(records)
            self.disturb(chosen)
            return loaded.run(chosen)

        return replace(loaded, run=run)

    def disturb(self, records: Sequence[Record]) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Uneven(Disturbed):
    """Slower for the earlier shards, so that they end in about the opposite order."""

    def disturb(self, records: Sequence[Record]) -> None:
        line = int(records[0].place.rpartition(" ")[2])
        time.sleep(max(0.0, 1 - line / 250))


@dataclass(frozen=True, kw_only=True)
class Dies(Disturbed):
    """Its process is killed as it writes the part that has this text to `folder`, while `marker` isn't there."""

    text: str
    marker: str
    folder: str

    def disturb(self, records: Sequence[Record]) -> None:
        if any(record.text == self.text for record in records) and not os.path.exists(self.marker):
            Path(self.marker).touch()
            (Path(self.folder) / ".part-00000-000003.jsonl.0123abcd.tmp").write_text('{"text": "')
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Fails(Disturbed):
    """Can't answer this text."""

    text: str

    def disturb(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.text == self.text:
                raise CheckpointError(f"the model's answer is not finite for the text {self.text!r}")
