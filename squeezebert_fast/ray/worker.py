"""What a worker does with a shard: compute its answers with a model of its own and write them."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezebert_fast.answering.failing import each_answered
from squeezebert_fast.answering.rows import answered
from squeezebert_fast.errors import ClusterError, InputError, SqueezeBertFastError
from squeezebert_fast.ray import folder
from squeezebert_fast.ray.job import PARQUET, Job
from squeezebert_fast.ray.shards import Report, failure_of, unpacked
from squeezebert_fast.ray.work import VECTOR, Loaded
from squeezebert_fast.storage.files import all_or_nothing
from squeezebert_fast.tables.blanks import Blanks
from squeezebert_fast.tables.json_rows import as_json
from squeezebert_fast.tables.rows import Record
from squeezebert_fast.tables.unreadable import SKIP, STOP, Unreadable

if TYPE_CHECKING:
    import pyarrow


ATTEMPTS = 5
"""How often Ray may repeat a shard because its worker or node died."""


class Worker:
    """From rows of `source.SCHEMA`, a shard each, to what became of them.

    A shard whose part is there already, because Ray repeats what it lost the report of, isn't computed again. What is
    wrong with a row or a file goes back as a failure.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, shards: pyarrow.Table) -> pyarrow.Table:
        import pyarrow

        said = []
        for row in shards.to_pylist():
            try:
                said.append(row["said"] if row["records"] is None else self._done(row).as_json())
            except SqueezeBertFastError as error:
                said.append(json.dumps(failure_of(error, socket.gethostname())))
        return pyarrow.table({"said": said})

    @cached_property
    def _loaded(self) -> Loaded:
        os.environ.setdefault("RAYON_NUM_THREADS", str(self.job.work.engine.threads))  # of tokenizers
        return self.job.work.load()

    def _done(self, row: dict[str, Any]) -> Report:
        report = Report(**json.loads(row["said"]))
        if known := folder.report_of(folder.report_path(self.job.folder, report.shard)):
            return known
        if not (self.job.folder / folder.MANIFEST).is_file():
            raise InputError(
                f"{self.job.folder} isn't there; the output must be on a file system that all nodes share"
            )
        records = unpacked(row["records"])
        if folder.begin(self.job.folder, report.shard) > ATTEMPTS:  # it must not do so for ever
            raise ClusterError(
                f"{ATTEMPTS} workers died at the rows from {records[0].place} to {records[-1].place}: out of memory?"
            )
        if row["kept"] is not None:
            records = _with_kept(records, row["kept"])
        report = self._written(records, report)
        folder.write_report(self.job.folder, report)
        return report

    def _written(self, records: Sequence[Record], report: Report) -> Report:
        job, blanks, unreadable = self.job, Blanks(), Unreadable(self.job.on_error)
        if job.format == PARQUET and job.keeps and job.kept_type is None:
            records = list(self._fitting(records, unreadable))
        loaded, rows = self._loaded, []
        nothing = dict.fromkeys(loaded.types)
        for record, answer in each_answered(records, loaded.run, nothing, unreadable, job.work.batch_size):
            if record.is_blank and not record.problem:
                blanks.note(record.place)
            shown = record.kept if job.keeps else loaded.asked(record)
            rows.append(answered(record, shown, answer, job.on_error))
        with all_or_nothing(job.folder) as stage:
            _write(rows, stage(f"{report.shard.name}.{job.format}"), job)
        return dataclasses.replace(
            report,
            rows=len(rows),
            errors=report.errors + unreadable.count,
            first_error=report.first_error or unreadable.first,
            blanks=blanks.count,
            first_blank=blanks.first,
            build=_build(),
        )

    def _fitting(self, records: Sequence[Record], unreadable: Unreadable) -> Iterator[Record]:
        """The records. Where what is kept of one has no place in a table, that is an error, or a problem of it."""
        from squeezebert_fast.ray.parquet_rows import misfit

        for record in records:
            if record.problem or not (reason := misfit(record.kept, self.job.kept_names)):
                yield record
                continue
            problem = f"{record.place}: {reason}"
            if unreadable.on_error == STOP:
                raise InputError(problem)
            unreadable.note(problem)
            if unreadable.on_error != SKIP:
                yield dataclasses.replace(record, problem=problem, kept={})


def _with_kept(records: Sequence[Record], stream: bytes) -> list[Record]:
    import pyarrow

    with pyarrow.ipc.open_stream(stream) as reader:
        kept = reader.read_all().column("kept").to_pylist()
    return [dataclasses.replace(record, kept=each or {}) for record, each in zip(records, kept, strict=True)]


def _write(rows: Sequence[dict[str, Any]], path: Path, job: Job) -> None:
    if job.schema is not None:
        import pyarrow.parquet

        from squeezebert_fast.ray.parquet_rows import table_of

        pyarrow.parquet.write_table(table_of(rows, job.schema), path, compression="zstd")
        return
    if VECTOR in (rows or ({},))[0]:
        from squeezebert_fast.answering.embedding import as_numbers

        rows = [row if row[VECTOR] is None else row | {VECTOR: as_numbers(row[VECTOR])} for row in rows]
    path.write_bytes("".join(f"{as_json(row)}\n" for row in rows).encode())


def _build() -> str:
    """The kernels that compute here: only equal ones give equal bits."""
    from squeezebert_fast.backends import cpu

    return "torch" if cpu.native_module_missing() else cpu.instruction_set()
