"""Output files that are whole or not there, rows of results, and the progress bar."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO, TypeVar

from squeezebert_fast.errors import InputError, StorageError, check_among, counted, one_of
from squeezebert_fast.storage.files import NO_ROOM, all_or_nothing, directory_named, remove_half_written
from squeezebert_fast.storage.lock import alone_in, holds_files
from squeezebert_fast.streams import held_warnings, is_missing, is_terminal, progress_console
from squeezebert_fast.tables.json_rows import NESTED, as_json

if TYPE_CHECKING:
    from squeezebert_fast.pretrained import Model

Item = TypeVar("Item")
ROW_FORMATS = ("jsonl", "csv")
STDOUT = Path("-")


def checked_output(path: Path, inputs: Sequence[str] = ()) -> Path:
    """`path` without symbolic links.

    Raises InputError, before anything is computed, if it can't be written or is one of the input's files.
    """
    if path == STDOUT:
        raise InputError(f"the output is {STDOUT}, standard output; expected a file")
    given = path.expanduser()
    path = Path(os.path.realpath(given))
    if given.exists() and not path.exists():  # /dev/stdout into a pipe: a link to nothing that has a name
        path = given
    if path.is_dir():
        raise InputError(f"the output {path} is a directory, expected a file")
    if path.exists() and any(os.path.exists(file) and path.samefile(file) for file in inputs):
        raise InputError(f"the output {path} is the input, which it would replace")
    if not path.parent.is_dir():
        raise InputError(f"the output {path} can't be written: there is no directory {path.parent}")
    for place in (path, path.parent) if path.is_file() else (path if path.exists() else path.parent,):
        if not os.access(place, os.W_OK):
            raise InputError(f"the output {path} can't be written: no permission to write {place}")
    return path


@contextmanager
def target_directory(name: str, force: bool) -> Iterator[Path]:
    """Keep other processes out of a directory while the block makes a model's of it; then print warnings.

    Raises CheckpointError for a name that `directory_named` refuses; InputError for a directory that holds files,
    unless `force`, and for one that another process is writing, such as a training run's.
    """
    target = directory_named(name)
    if not force and holds_files(target):
        raise InputError(f"the target {target} holds files already; --force writes into it all the same")
    with held_warnings(), alone_in(target):
        remove_half_written(target)
        yield target


def tell_model(target: Path, model: Model, as_json: bool, shown: str, **facts: object) -> None:
    """Say on stdout what model a directory holds now. shown: what else, in words; facts: the same, by name."""
    kind, parameters = type(model).__name__, model.num_parameters()
    if as_json:
        print(json.dumps({"path": str(target), "class": kind, "parameters": parameters, **facts}))
    else:
        print(f"{target}: {kind}, {parameters / 1e6:.1f} M parameters, {shown}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to instead of `path`, renamed onto it if the block ends well and removed otherwise."""
    path = checked_output(path)
    if path.exists() and not path.is_file():
        raise InputError(f"the output {path} is a device or pipe, expected a file")
    with all_or_nothing(path.parent) as stage:
        yield stage(path.name)


@contextmanager
def _text_stream(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        if is_missing("stdout"):
            raise InputError("there is no stdout to write the results to; give --output")
        yield sys.stdout
    elif path.exists() and not path.is_file():  # /dev/null, a pipe: nothing to rename onto
        try:
            with path.open("w", encoding="utf-8", newline="") as stream:
                yield stream
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise StorageError(f"{path} can't be written: {error.strerror}") from error
    else:
        with replacing(path) as staged, staged.open("w", encoding="utf-8", newline="") as stream:
            yield stream


def row_format(path: Path | None, format: str | None) -> str:
    """The format to write rows in: `format`, or else what the path's suffix says, or else jsonl."""
    if format is not None:
        check_among("the output format", format, ROW_FORMATS, InputError)
        return format
    suffix = "" if path is None else path.suffix
    if suffix and suffix[1:].lower() not in ROW_FORMATS:
        suffixes = one_of(f".{each}" for each in ROW_FORMATS)
        raise InputError(f"the output {path} has the suffix {suffix!r}, expected {suffixes}")
    return suffix[1:].lower() or ROW_FORMATS[0]


@contextmanager
def row_writer(
    path: Path | None, format: str, columns: Iterable[str] = ()
) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """A function that writes a row, a mapping with the same keys each time, to a file or stdout (None).

    format: `jsonl`, an object a line, or `csv`, with a header. columns: the keys, if perhaps no row has them.
    """
    with _text_stream(path) as stream:
        if format == "jsonl":
            yield lambda row: print(as_json(row), file=stream)
            return
        table = csv.writer(stream, lineterminator="\n")
        header = list(columns)
        if header:
            table.writerow(header)

        def write(row: Mapping[str, object]) -> None:
            if not header:
                header.extend(row)
                table.writerow(header)
            odd = row.keys() ^ set(header)
            if odd:
                raise InputError(
                    f"a row has other columns than the first ({min(odd)}), which is for --format jsonl"
                )
            values = (row[name] for name in header)  # files may have their columns in different orders
            fields = [as_json(value) if isinstance(value, NESTED) else value for value in values]
            try:
                table.writerow(fields)
            except UnicodeEncodeError as error:
                surrogate = error.object[error.start]
                raise InputError(
                    f"a row has the lone surrogate {surrogate!a}, which is for --format jsonl"
                ) from error

        yield write


class Counted(Protocol):
    """Something that is gone through: how much there is, None if unknown, and how much is done."""

    @property
    def size(self) -> int | None: ...
    @property
    def done(self) -> int: ...


def tracked(items: Iterable[Item], source: Counted, *, to_stdout: bool = False) -> Iterator[Item]:
    """Pass `items`, made from `source`, on, with a progress bar on stderr while that is a terminal.

    to_stdout: whether results go to stdout; where that is a terminal too, they are progress enough.
    """
    if not is_terminal(sys.stderr) or (to_stdout and is_terminal(sys.stdout)):
        yield from items
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=progress_console(), transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=source.size, count="")
        for count, item in enumerate(items, 1):
            progress.update(task, completed=source.done, count=counted(count, "text"))
            yield item
