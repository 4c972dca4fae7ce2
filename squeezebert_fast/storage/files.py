"""Reading JSON that may be damaged, and writing a directory's files so that a failure leaves the old ones."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from squeezebert_fast.errors import CheckpointError, SqueezeBertFastError, StorageError
from squeezebert_fast.shipped import refuse_as_output

CONFIG_NAME = "config.json"
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""The numbers of the operating system's errors that nothing but writing too much has."""
HALF_WRITTEN = re.compile(
    r"\.(?:.+\.)?[0-9a-z_]{8}\.tmp"
)  # a file of `all_or_nothing`, or a folder of tempfile
OF_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers pass these numbers on


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises CheckpointError, naming the file, for anything else in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError, naming the file, for anything else in it."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object")
    return result


def directory_named(name: str | os.PathLike[str]) -> Path:
    """The directory that a caller asks to write to, `~` being home.

    Raises CheckpointError for the empty name, and one that begins as a shipped model's.
    """
    if not os.fspath(name):  # Path("") would be the current directory
        raise CheckpointError("the directory's name is empty; expected one to write to")
    refuse_as_output(name)
    return Path(os.path.expanduser(name))


@contextmanager
def all_or_nothing(directory: Path) -> Iterator[Callable[[str], Path]]:
    """Write files of `directory`, made with its parents if need be, all of them or none.

    Gives a function from a file's name to the path to write it at. That path lies beside the final one; when
    the block ends well the files are renamed onto their names in the order of those calls, and when it fails
    they are removed, so that a full disk or a crash leaves whole files, and the older ones.

    Raises CheckpointError if `directory` can't be made, StorageError if a file can't be written.
    """
    staged: dict[Path, Path] = {}
    suffix = f".{uuid.uuid4().hex[:8]}.tmp"

    def stage(name: str) -> Path:
        path = directory / f".{name}{suffix}"
        path.touch(exist_ok=False)
        staged[directory / name] = path
        return path

    make_directory(directory)
    try:
        with writing(directory):
            yield stage
            for path in staged.values():
                _flush_to_disk(path)
            for final, path in staged.items():
                os.replace(path, final)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def is_half_written(path: Path) -> bool:
    """Whether a file or folder is named as one that isn't whole: it is being written, or who wrote it was killed."""
    return HALF_WRITTEN.fullmatch(path.name) is not None


def remove_half_written(directory: Path) -> None:
    """Remove what processes that were killed left in a directory where nobody else writes. Raises StorageError."""
    if not directory.is_dir():
        return
    with writing(directory):
        for path in filter(is_half_written, list(directory.iterdir())):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def make_directory(directory: Path) -> None:
    """Make it with its parents, unless it is there. Raises CheckpointError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        in_the_way = Path(error.filename)  # the directory, or one that it is in
        what = "a file"
        if in_the_way.is_symlink() and not in_the_way.exists():
            what = f"a link to {os.readlink(in_the_way)}, which isn't there"
        raise CheckpointError(f"{in_the_way} is {what}; expected a directory to write to") from error
    except OSError as error:
        kind = StorageError if error.errno in NO_ROOM else CheckpointError
        raise kind(f"{directory} can't be written: {error}") from error
    except ValueError as error:  # a name with a NUL
        raise CheckpointError(f"{directory} can't be written: {error}") from error


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise StorageError, which names `place`, for what a library raises in the block where it can't write."""
    try:
        yield
    except Exception as error:
        if (reason := _why_not_written(error)) is None:
            raise
        raise StorageError(f"{place} can't be written: {reason}") from error


def _why_not_written(error: Exception) -> str | None:
    """Why a file couldn't be written, if that is what the error comes from.

    torch, transformers and tokenizers raise another one over the operating system's.
    """
    if isinstance(error, StorageError):
        return None  # which says so already
    if isinstance(error, SafetensorError) or (
        isinstance(error, OSError) and not isinstance(error, SqueezeBertFastError)
    ):
        return str(error)
    each: BaseException | None = error
    while each is not None:
        found = OF_RUST.search(str(each))
        number = int(found[1]) if found else each.errno if isinstance(each, OSError) else None
        if number in NO_ROOM:
            return os.strerror(number)
        each = each.__cause__ or each.__context__
    return None


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
