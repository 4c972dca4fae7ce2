"""The options of the commands that run on Ray, and their way there: --ray."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from squeezebert_fast.cli.writing import STDOUT
from squeezebert_fast.errors import InputError, check_among, counted
from squeezebert_fast.streams import PROGRAM, held_warnings, is_terminal, progress_console
from squeezebert_fast.tables.blanks import Blanks
from squeezebert_fast.tables.rows import Input
from squeezebert_fast.tables.unreadable import Unreadable

if TYPE_CHECKING:
    from squeezebert_fast.ray.shards import Report
    from squeezebert_fast.ray.work import Work

OPTION = "--ray"
LOCAL = "local"
ADDRESS = re.compile(r"auto|local|ray://\S+|[^/\\]+:\d+")
"""What follows --ray as its value; anything else is the next argument."""


class Command(TyperCommand):
    """A command whose --ray may have a value or not: click would take the INPUT that follows it for one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        for at, each in enumerate(given):
            if each == "--":
                break
            if each == OPTION:
                follows = given[at + 1] if at + 1 < len(given) else ""
                is_address = ADDRESS.fullmatch(follows) is not None
                given[at : at + 1 + is_address] = [f"{OPTION}={follows if is_address else LOCAL}"]
        return super().parse_args(ctx, given)


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Whether and how a command runs on Ray."""

    ray: Annotated[
        str | None,
        typer.Option(
            OPTION,
            metavar="[ADDRESS]",
            help="Compute on Ray, and write a directory of parts, whose bytes are the same whatever the number of "
            "workers: on a cluster of this machine that is started and stopped, or on the one at ADDRESS (HOST:PORT "
            "or auto) that this machine is a node of.",
            show_default=False,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --ray: workers, each with a model and, unless --threads says more, one thread; by default as "
            "many as there are CPUs for.",
        ),
    ] = None
    shard_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --ray: rows of a part, which are computed and, after a fault, repeated as one.",
            show_default="8192",
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="With --ray: go on with a job of the same --output that didn't end."),
    ] = False

    def __post_init__(self) -> None:
        if self.ray is None:
            for name, value in vars(self).items():
                if value:
                    raise InputError(f"--{name.replace('_', '-')} means nothing without --ray")
        elif ADDRESS.fullmatch(self.ray) is None or self.ray.startswith("ray://"):
            raise InputError(
                f"--ray is {self.ray!r}, expected HOST:PORT or auto; from a machine that is no node of the cluster, "
                "submit the command by `ray job submit`"
            )

    def format(self, output: Path | None, said: str | None, default: str) -> str:
        """The format of the parts: as it is said, or as the directory's suffix says. Raises InputError for another."""
        from squeezebert_fast.ray.job import FORMATS

        if output is None or output == STDOUT:
            raise InputError("--ray needs --output, a directory to write to")
        suffix = output.suffix[1:].lower()
        if said is None and suffix in ("csv", "npy"):
            raise InputError(
                f"the output {output} looks like a file; with --ray it is a directory of .jsonl or .parquet files"
            )
        found = said or (suffix if suffix in FORMATS else default)
        check_among("with --ray the output format", found, FORMATS, InputError)
        return found


def run_on_ray(
    options: RayOptions,
    work: Work,
    records: Input,
    reading: Mapping[str, Any],
    output: Path,
    format: str,
    consequence: str,
) -> None:
    """Do the work on a cluster and say what was done. consequence: what becomes of empty texts.

    records: what `reading`, the other arguments of `Input`, makes of the input; they are only looked at.
    Raises what is wrong with the model, the input or the output before the cluster starts.
    """
    from squeezebert_fast.ray import folder
    from squeezebert_fast.ray.cluster import connected, library, unheard
    from squeezebert_fast.ray.job import SHARD_ROWS, plan
    from squeezebert_fast.ray.running import run

    assert options.ray is not None
    threads = work.engine.threads or 1
    work = replace(work, engine=replace(work.engine, threads=threads))  # type: ignore[type-var]
    target = folder.checked_target(output, options.resume)
    library()
    place = folder.unfinished(target)
    rows = options.shard_rows or SHARD_ROWS
    job = plan(work, work.load(), records, reading, place, format=format, shard_rows=rows)
    manifest = job.manifest()
    began = time.monotonic()
    with folder.opened(place, manifest, options.resume):
        done = folder.reports(place, format) if options.resume else []
        with unheard(), connected(options.ray, options.workers, threads) as workers:
            found = [*done, *_shown(run(job, done, workers, threads), records.size, done)]
    summary = _summary(found)
    folder.finish(target, manifest, summary)
    new = sum(report.rows for report in found) - sum(report.rows for report in done)
    took = time.monotonic() - began
    typer.echo(
        f"{PROGRAM}: {counted(summary['rows'], 'row')} in {counted(summary['parts'], 'part')} in {target}; "
        f"{new:,} of them now, {new / took:,.0f} a second",
        err=True,
    )
    _warn(found, job.on_error, consequence)


def _shown(reports: Iterable[Report], size: int | None, done: Sequence[Report]) -> Iterator[Report]:
    """Pass reports on, with a progress bar of the input's bytes on stderr while that is a terminal.

    done: what was so before.
    """
    if not is_terminal(sys.stderr):
        yield from reports
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=progress_console(), transient=True, redirect_stdout=False) as progress:
        read, before = sum(report.bytes for report in done), sum(report.rows for report in done)
        task = progress.add_task("", total=size, completed=read, count="waiting for workers")
        began, rows = time.monotonic(), before
        for report in reports:
            rows += report.rows
            rate = (rows - before) / max(time.monotonic() - began, 1e-3)
            progress.update(task, advance=report.bytes, count=f"{counted(rows, 'row')}, {rate:,.0f} a second")
            yield report


def _summary(found: Sequence[Report]) -> dict[str, int]:
    return {
        "rows": sum(report.rows for report in found),
        "errors": sum(report.errors for report in found),
        "blanks": sum(report.blanks for report in found),
        "parts": sum(not report.is_end for report in found),
    }


def _warn(found: Sequence[Report], on_error: str, consequence: str) -> None:
    """Warn of rows without an answer, with the place of the first in the input's order."""
    from squeezebert_fast.ray.running import warn_of_unequal

    unreadable, blanks = Unreadable(on_error), Blanks()
    for report in sorted(found, key=lambda each: each.shard):
        unreadable.count += report.errors
        unreadable.first = unreadable.first or report.first_error
        blanks.count += report.blanks
        blanks.first = blanks.first or report.first_blank
    with held_warnings():
        unreadable.warn()
        blanks.warn(consequence)
        warn_of_unequal(found)
