"""Directories that `save_to_disk` of the datasets library writes, read through pyarrow alone.

dataset_info.json   the columns' types: the names of a ClassLabel's numbers
state.json          the files of rows, in order
data-*.arrow        rows, as Arrow streams
dataset_dict.json   in a directory of several such, one for each split
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from squeezebert_fast.errors import CheckpointError, InputError
from squeezebert_fast.storage.files import read_json_object

STATE = "state.json"
INFO = "dataset_info.json"
SPLITS = "dataset_dict.json"


def is_dataset(folder: Path) -> bool:
    """Whether the directory is one of `save_to_disk`, of one split or several."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def data_files(folder: Path) -> list[Path]:
    """The files of rows, in order. Raises InputError for a directory of splits, or one that isn't whole."""
    if (folder / SPLITS).is_file():
        splits = _json(folder / SPLITS).get("splits") or []
        raise InputError(f"{folder} holds the splits {', '.join(map(str, splits))}; give the folder of one")
    entries = _json(folder / STATE).get("_data_files")
    names = [entry.get("filename") for entry in entries] if isinstance(entries, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{folder / STATE} names no files of rows")
    return [folder / name for name in names]


def read_rows(folder: Path, choose: Callable[[list[str]], list[str]]) -> Iterator[dict[str, Any]]:
    """Each row's wanted columns, with a class's name in place of its number.

    choose: from the columns that there are to those that are wanted.
    Raises InputError where pyarrow is missing, a file can't be read, and what `choose` raises.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            f"reading {folder} needs pyarrow ({error}); pip install squeezebert-fast[parquet]"
        ) from error
    for path in data_files(folder):
        try:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
                columns = choose(list(reader.schema.names))
                names = {column: _class_names(folder, column) for column in columns}
                for batch in reader:
                    values = {column: batch.column(column).to_pylist() for column in columns}
                    for at in range(len(batch)):
                        yield {name: _named(values[name][at], names[name]) for name in columns}
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} is not a readable Arrow file: {reason}") from error


def _class_names(folder: Path, column: str) -> list[str] | None:
    """The names of a ClassLabel column's numbers, or None for another column."""
    features = _json(folder / INFO).get("features") or {}
    feature = features.get(column)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    return [str(name) for name in feature.get("names") or []]


def _named(value: Any, names: list[str] | None) -> Any:
    """A class's name in place of its number; None for -1, which marks a row without a label."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except CheckpointError as error:
        raise InputError(str(error)) from error
