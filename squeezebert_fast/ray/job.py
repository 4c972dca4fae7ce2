"""A batch job: which rows of which files are computed by what, and where the answers go."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.ray.shards import MOST_FILES
from squeezebert_fast.ray.work import Loaded, Work, place_of
from squeezebert_fast.tables.rows import Input
from squeezebert_fast.tables.sources import STDIN, suffix_format
from squeezebert_fast.version import __version__

if TYPE_CHECKING:
    import pyarrow

JSONL, PARQUET = FORMATS = ("jsonl", "parquet")
SHARD_ROWS = 8192


@dataclass(frozen=True)
class Job:
    """What is known of a job everywhere in the cluster.

    files: each input file's absolute path, and what messages call it. reading: the other arguments of `Input`. folder:
    where the parts are written. keeps: whether columns are kept. kept_type: of what is kept, a struct, where the
    table has the input's types; else it is JSON. kept_names: what a table has columns for. schema: of a table.
    """

    work: Work
    files: tuple[tuple[str, str], ...]
    reading: Mapping[str, Any]
    folder: Path
    format: str = JSONL
    shard_rows: int = SHARD_ROWS
    keeps: bool = False
    kept_type: pyarrow.DataType | None = None
    kept_names: tuple[str, ...] = ()
    schema: pyarrow.Schema | None = field(default=None, compare=False)

    @property
    def on_error(self) -> str:
        return str(self.reading["on_error"])

    def manifest(self) -> dict[str, Any]:
        """All that the bytes of the output follow from, as JSON: what a job that goes on must have in common."""
        options = dataclasses.asdict(self.work)  # type: ignore[call-overload]
        engine = {name: value for name, value in options.pop("engine").items() if name != "threads"}
        return {
            "version": __version__,
            "command": self.work.name,
            "model": {"name": options.pop("model"), "files": _stamps_within(self.work.model)},
            "options": options | engine,
            "format": self.format,
            "shard_rows": self.shard_rows,
            "reading": dict(self.reading),
            "input": {path: _stamp(Path(path)) for path, _ in self.files},
        }


def plan(
    work: Work,
    loaded: Loaded,
    records: Input,
    reading: Mapping[str, Any],
    folder: Path,
    *,
    format: str,
    shard_rows: int,
) -> Job:
    """The job that answers `records`, which were read with `reading`.

    Raises InputError for an input that several processes can't read, and one whose rows have no common schema.
    """
    if records.source == STDIN:
        raise InputError(
            f"with --ray the input is a file, which several processes can read, not {records.name}"
        )
    if len(records.files) > MOST_FILES:
        raise InputError(
            f"the input is {counted(len(records.files), 'file')}, expected at most {MOST_FILES:,}; join some"
        )
    work = dataclasses.replace(work, model=place_of(work.model))  # type: ignore[type-var]
    files = tuple((os.path.abspath(file), file) for file in records.files)
    job = Job(work, files, reading, folder, format, shard_rows, keeps=bool(records.kept))
    first = next((record for record in records if not record.problem), None)
    if first is None:
        raise InputError(f"{records.name} holds no texts that can be read ({records.unreadable.first})")
    return _with_types(job, records, first.kept if job.keeps else loaded.asked(first), loaded)


def _with_types(job: Job, records: Input, shown: Mapping[str, Any], loaded: Loaded) -> Job:
    """The job with the types of what stands beside the answers, by the row that is first; JSON needs none."""
    if job.format != PARQUET:
        return job
    import pyarrow

    from squeezebert_fast.ray.parquet_rows import kept_types, schema_of

    types = dict.fromkeys(shown, pyarrow.string())
    kept_type = None
    if job.keeps and {records.format or suffix_format(file) for file in records.files} == {PARQUET}:
        types = kept_types(records.files, records.kept)
        kept_type = pyarrow.struct(list(types.items()))
    schema = schema_of(types, loaded.types, job.on_error)
    return dataclasses.replace(job, kept_type=kept_type, kept_names=tuple(shown), schema=schema)


def _stamps_within(model: str) -> dict[str, Any]:
    """What tells whether a model's folder has been changed; of one on the hub, nothing but its name is known."""
    folder = Path(model)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {str(path.relative_to(folder)): _stamp(path) for path in files}


def _stamp(path: Path) -> dict[str, int]:
    """A file's size and time of change; a directory of the datasets library has that of its last file."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    states = [each.stat() for each in files]
    return {
        "size": sum(state.st_size for state in states),
        "changed_ns": max((state.st_mtime_ns for state in states), default=0),
    }
