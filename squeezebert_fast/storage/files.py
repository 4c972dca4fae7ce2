"""Reading JSON that may be damaged, and writing a directory's files so that a failure leaves the old ones."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from squeezebert_fast.errors import CheckpointError

CONFIG_NAME = "config.json"


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
    """The directory that a caller asks to write to, `~` being home. Raises CheckpointError for the empty name."""
    if not os.fspath(name):  # Path("") would be the current directory
        raise CheckpointError("the directory's name is empty; expected one to write to")
    return Path(os.path.expanduser(name))


@contextmanager
def all_or_nothing(directory: Path) -> Iterator[Callable[[str], Path]]:
    """Write files of `directory`, made with its parents if need be, all of them or none.

    Gives a function from a file's name to the path to write it at. That path lies beside the final one; when
    the block ends well the files are renamed onto their names in the order of those calls, and when it fails
    they are removed, so that a full disk or a crash leaves whole files, and the older ones.

    Raises CheckpointError if `directory` is a file, or if a file can't be written.
    """
    staged: dict[Path, Path] = {}
    suffix = f".{uuid.uuid4().hex[:8]}.tmp"

    def stage(name: str) -> Path:
        path = directory / f".{name}{suffix}"
        path.touch(exist_ok=False)
        staged[directory / name] = path
        return path

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CheckpointError(f"{directory} is a file; expected a directory to write to") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise CheckpointError(f"{directory} can't be written: {error}") from error
    try:
        yield stage
        for path in staged.values():
            _flush_to_disk(path)
        for final, path in staged.items():
            os.replace(path, final)
    except (OSError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{directory} can't be written: {error}") from error
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
