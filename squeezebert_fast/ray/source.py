"""Input files as a dataset of Ray Data, a row for each shard."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from squeezebert_fast.errors import InputError, SqueezeBertFastError
from squeezebert_fast.ray.job import Job
from squeezebert_fast.ray.shards import MOST_SHARDS, Report, failure_of, packed
from squeezebert_fast.tables.rows import Input
from squeezebert_fast.tables.sources import Source

SCHEMA = pyarrow.schema(
    [
        ("file", pyarrow.int32()),
        ("number", pyarrow.int32()),
        ("records", pyarrow.large_binary()),  # `packed`; null where there is nothing to compute
        ("kept", pyarrow.large_binary()),  # what is kept of them, in an Arrow stream, where its types matter
        ("said", pyarrow.string()),  # a Report of what the reader knows, or a failure, as JSON
    ]
)


class Shards(Datasource):
    """The shards of a job's input files, but for those that are done. A reader takes a file from its start to its end.

    After a fault Ray reads a file again, and gets the same shards.
    """

    def __init__(self, job: Job, done: dict[int, frozenset[int]]) -> None:
        super().__init__()
        self.job, self.done = job, done

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(_shards_of, self.job, file, self.done.get(file, frozenset())), nothing_known)
            for file in range(len(self.job.files))
        ]


class OneFile(Input):
    """One of the input's files, called in messages as it was given, whatever directory the reader is in."""

    must_hold_some = False

    def __init__(self, path: str, called: str, **reading: Any) -> None:
        self.called = called
        super().__init__(path, **reading)

    def _source(self, file: str) -> Source:
        source = super()._source(file)
        source.name = self.called
        return source


def _shards_of(job: Job, file: int, done: frozenset[int]) -> Iterator[pyarrow.Table]:
    try:
        records = OneFile(*job.files[file], **job.reading)
        rows, read, unreadable = iter(records), 0, 0
        for number in itertools.count():
            chosen = list(itertools.islice(rows, job.shard_rows))
            if number >= MOST_SHARDS:
                raise InputError(
                    f"{records.called} has more than {MOST_SHARDS:,} shards; give larger --shard-rows"
                )
            report = Report(
                file,
                number,
                errors=records.unreadable.count - unreadable,
                first_error=records.unreadable.first if records.unreadable.count > unreadable else "",
                bytes=records.done - read,
                is_end=not chosen,
            )
            read, unreadable = records.done, records.unreadable.count
            if not chosen:
                yield _row(file, number, report.as_json())
                return
            if number not in done:
                yield _row(file, number, report.as_json(), *_packed(job, chosen))
    except SqueezeBertFastError as error:
        yield _row(file, -1, json.dumps(failure_of(error, socket.gethostname())))


def _packed(job: Job, records: list[Any]) -> tuple[bytes, bytes | None]:
    if job.kept_type is None:
        return packed(records), None
    kept = pyarrow.array([record.kept or None for record in records], job.kept_type)
    batch = pyarrow.record_batch([kept], ["kept"])
    stream = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(stream, batch.schema) as writer:
        writer.write_batch(batch)
    return packed(records, but="kept"), stream.getvalue().to_pybytes()


def _row(
    file: int, number: int, said: str, records: bytes | None = None, kept: bytes | None = None
) -> pyarrow.Table:
    columns: list[list[Any]] = [[file], [number], [records], [kept], [said]]
    return pyarrow.Table.from_arrays(
        [pyarrow.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
