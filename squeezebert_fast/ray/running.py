"""A job's run on a cluster: readers, workers, and what they report."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezebert_fast.backends.cpu import ISA_VARIABLE
from squeezebert_fast.errors import ClusterError, StorageError, counted
from squeezebert_fast.ray.cluster import library
from squeezebert_fast.ray.job import Job
from squeezebert_fast.ray.shards import Report, raised_again
from squeezebert_fast.ray.worker import Worker

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger("squeezebert_fast.ray")

IN_FLIGHT = 2
"""Shards that a worker has at once: the next is there when one is done."""

WORKERS_A_READER = 8
"""A file is read many times faster than a model answers."""


def run(job: Job, done: Sequence[Report], workers: int, threads: int) -> Iterator[Report]:
    """The report of each shard that isn't among those of `done`, in whatever order they come.

    Raises what a row or the model raises, ClusterError where the cluster fails for good, and StorageError where parts
    aren't there after all.
    """
    ends: dict[int, int] = {}
    numbers: dict[int, set[int]] = {}
    for report in done:
        numbers.setdefault(report.file, set()).add(report.number)
    for report in _reported(
        _dataset(job, {file: frozenset(each) for file, each in numbers.items()}, workers, threads)
    ):
        if report.is_end:
            ends[report.file] = report.number
        else:
            numbers.setdefault(report.file, set()).add(report.number)
        yield report
    _check_whole(job, ends, numbers)


def warn_of_unequal(reports: Iterable[Report]) -> None:
    """Warn where parts were computed by different kernels, which don't give the same bits."""
    builds = sorted({report.build for report in reports if report.build})
    if len(builds) > 1:
        logger.warning(
            "workers computed with %s, whose bits differ; set %s to one that all nodes have",
            " and ".join(builds),
            ISA_VARIABLE,
        )


def _dataset(job: Job, done: dict[int, frozenset[int]], workers: int, threads: int) -> Dataset:
    from ray.data import ActorPoolStrategy, DataContext, read_datasource

    from squeezebert_fast.ray.source import Shards

    context = DataContext.get_current().copy()
    context.target_max_block_size = (
        1  # a block for each row, so that a shard is what Ray schedules and repeats
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        files = len(job.files)
        shards = read_datasource(
            Shards(job, done),
            num_cpus=0,  # the workers have all CPUs: a reader that waited for one would never begin
            concurrency=max(1, min(files, workers // WORKERS_A_READER)),
            override_num_blocks=files,
        )
        return shards.map_batches(
            Worker,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=threads,
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=IN_FLIGHT),
        )


def _reported(dataset: Dataset) -> Iterator[Report]:
    ray = library()
    try:
        for row in dataset.iter_rows():
            said: dict[str, Any] = json.loads(row["said"])
            if "kind" in said:
                raise raised_again(said, socket.gethostname())
            yield Report(**said)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ClusterError(
            f"the work on Ray failed: {lines[-1].strip() if lines else type(error).__name__}"
        ) from error


def _check_whole(job: Job, ends: dict[int, int], numbers: dict[int, set[int]]) -> None:
    unread = [called for file, (_, called) in enumerate(job.files) if file not in ends]
    if unread:
        raise ClusterError(f"{unread[0]} wasn't read to its end; --resume goes on")
    for file, count in ends.items():
        if numbers.get(file, set()) != set(range(count)):
            raise ClusterError(f"some rows of {job.files[file][1]} got no answer; --resume goes on")
    there = {path.stem for path in Path(job.folder).glob(f"part-*.{job.format}")}
    missing = sum(map(len, numbers.values())) - len(there)
    if missing:
        raise StorageError(
            f"{counted(missing, 'part')} of the output are not in {job.folder}; it must be on a file system that all "
            "nodes share"
        )
