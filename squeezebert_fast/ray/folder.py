"""The folder of a job's output: whole under its name, and until then `NAME.unfinished` beside it.

    _job.json             what the output follows from (`Job.manifest`), and at the end how much there was
    part-FFFFF-NNNNNN.*   the answers to a shard, each there as a whole or not at all
    _reports/             what became of each shard, until the end: a shard is done when its report is there

Readers of folders pass over names that begin so, and so this output can be an input.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from squeezebert_fast.errors import CheckpointError, InputError
from squeezebert_fast.ray.shards import Report, Shard
from squeezebert_fast.storage.files import (
    all_or_nothing,
    make_directory,
    read_json_object,
    remove_half_written,
    writing,
)
from squeezebert_fast.storage.lock import LOCK, alone_in, holds_files
from squeezebert_fast.tables.unreadable import SKIP, STOP

MANIFEST = "_job.json"
OUTPUT = "output"
"""Under which the manifest has how much there was."""

REPORTS = "_reports"
BEGUN = ".begun"


def unfinished(target: Path) -> Path:
    """Where the output is written until it is whole."""
    return target.with_name(f"{target.name}.unfinished")


def checked_target(path: Path, resume: bool) -> Path:
    """`path` without symbolic links.

    Raises InputError, before anything is computed, where it can't become the output.
    """
    target = Path(os.path.realpath(path.expanduser()))
    if target.is_dir() and os.path.ismount(target):  # at its end the job would be renamed onto it
        raise InputError(f"the output {target} is where a file system is mounted; give a directory in it")
    if target.is_dir() and target.samefile(os.curdir):
        raise InputError(
            f"the output {target} is the current directory, which it would replace; give one in it"
        )
    if target.exists() and not target.is_dir():
        raise InputError(f"the output {target} is a file; with --ray it is a directory of files")
    if resume and (target / MANIFEST).is_file():
        raise InputError(f"the output {target} is whole already; there is nothing to go on with")
    if holds_files(target):
        raise InputError(f"the output {target} holds files already; give another, or remove it")
    if not target.parent.is_dir():
        raise InputError(f"the output {target} can't be written: there is no directory {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"the output {target} can't be written: no permission to write {target.parent}")
    begun = unfinished(target)
    is_job = (begun / MANIFEST).is_file()
    if not is_job and holds_files(begun):
        raise InputError(f"{begun} holds files that are of no job; remove it, or give another output")
    if resume and not is_job:
        raise InputError(f"there is no {begun} to go on with; leave --resume out")
    if is_job and not resume:
        with alone_in(begun):  # else it is in use, and nothing to remove
            raise InputError(f"{begun} is a job that didn't end; go on with it by --resume, or remove it")
    return target


@contextmanager
def opened(folder: Path, manifest: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Keep others out of the folder while the block writes parts of this job; what another process left is removed.

    Raises InputError for a folder of another job, and one that another process writes.
    """
    with alone_in(folder):
        remove_half_written(folder)
        remove_half_written(folder / REPORTS)
        for path in (folder / REPORTS).glob(f"*{BEGUN}"):
            path.unlink()
        if resume:
            _check_same(folder, manifest)
        _write(folder, manifest)
        make_directory(folder / REPORTS)
        try:
            yield
        except BaseException:
            if not list((folder / REPORTS).glob("*.json")):  # nothing to go on with: the folder is to be gone
                shutil.rmtree(folder / REPORTS, ignore_errors=True)
                # a part whose report had no room too
                for path in (*folder.glob("part-*"), folder / MANIFEST):
                    path.unlink(missing_ok=True)
            raise


def _check_same(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        begun = read_json_object(folder / MANIFEST)
    except CheckpointError as error:
        raise InputError(f"{error}; remove {folder}") from error
    begun.pop(OUTPUT, None)  # it was killed just before its end
    wanted = json.loads(json.dumps(manifest))
    if (begun.get("reading", {}).get("on_error"), wanted["reading"]["on_error"]) == (STOP, SKIP):
        begun["reading"]["on_error"] = SKIP  # of what is done no row was left out
    for name in wanted | begun:
        if begun.get(name) != wanted.get(name):
            was, now = _first_difference(name, begun.get(name), wanted.get(name))
            raise InputError(
                f"{folder} is of another job: its {was}, and now {now}; give what it began with, or remove it"
            )


def _first_difference(name: str, was: Any, now: Any) -> tuple[str, str]:
    """Where two values of a manifest differ, as words for either."""
    if isinstance(was, dict) and isinstance(now, dict):
        inner = next(each for each in {**was, **now} if was.get(each) != now.get(each))
        return _first_difference(f"{name} {inner}", was.get(inner), now.get(inner))
    return f"{name} is {json.dumps(was)}", f"it is {json.dumps(now)}"


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    with all_or_nothing(folder) as stage:
        stage(MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def begin(folder: Path, shard: Shard) -> int:
    """Note that a worker begins with a shard; how often one has since the job began or went on. Raises StorageError."""
    with writing(folder), (folder / REPORTS / f"{shard.name}{BEGUN}").open("ab") as stream:
        stream.write(b".")
        return stream.tell()


def report_path(folder: Path, shard: Shard) -> Path:
    return folder / REPORTS / f"{shard.name}.json"


def report_of(path: Path) -> Report | None:
    """What became of a shard, or None where it isn't done. Raises CheckpointError for a file of anything else."""
    if not path.is_file():
        return None
    try:
        return Report(**read_json_object(path))
    except TypeError as error:
        raise CheckpointError(f"{path} is no report of a shard: {error}") from error


def write_report(folder: Path, report: Report) -> None:
    """Say that a shard is done, once its part is there. Raises StorageError."""
    path = report_path(folder, report.shard)
    with all_or_nothing(path.parent) as stage:
        stage(path.name).write_text(report.as_json(), encoding="utf-8")
    path.with_suffix(BEGUN).unlink(missing_ok=True)


def reports(folder: Path, suffix: str) -> list[Report]:
    """Those of the shards that are done, in the order of their names."""
    found = [report_of(path) for path in sorted((folder / REPORTS).glob("part-*.json"))]
    return [each for each in found if each and (folder / f"{each.shard.name}.{suffix}").is_file()]


def finish(target: Path, manifest: Mapping[str, Any], summary: Mapping[str, int]) -> None:
    """Give the output its name. summary: what is to stand in its manifest too. Raises StorageError."""
    folder = unfinished(target)
    remove_half_written(folder)  # by workers that died; others have written their parts again
    _write(folder, {**manifest, OUTPUT: summary})
    with writing(target):
        (folder / LOCK).unlink(missing_ok=True)
        os.rename(folder, target)
    shutil.rmtree(target / REPORTS, ignore_errors=True)
