"""Files of vectors: NumPy's, and tables with a vector in each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from squeezebert_fast.answering.rows import answered
from squeezebert_fast.cli.writing import replacing, row_writer
from squeezebert_fast.errors import InputError, one_of
from squeezebert_fast.tables.rows import Record

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

NUMPY = "npy"
FORMATS = (NUMPY, "csv", "jsonl")

Append = Callable[[Record, Mapping[str, object], "Tensor"], None]
"""Writes a record's vector, and what is to stand beside it."""


def vector_format(path: Path) -> str:
    """The format that a file's suffix says, without one NumPy's. Raises InputError for another than FORMATS."""
    format = path.suffix[1:].lower() or NUMPY
    if format not in FORMATS:
        suffixes = [f".{each}" for each in FORMATS]
        raise InputError(f"the output {path} has the suffix {path.suffix!r}, expected {one_of(suffixes)}")
    return format


@contextmanager
def vector_writer(path: Path, channels: int, on_error: str) -> Iterator[Append]:
    """A function that writes a row to a file, which is whole or not there. on_error: as `answered` has it.

    .npy holds the vectors alone, float32 [rows, channels]; .jsonl a list under "vector"; .csv the columns v0, v1, ...
    """
    if vector_format(path) == NUMPY:
        with replacing(path) as staged, NpyRows.open(staged, channels) as rows:
            yield lambda record, shown, vector: rows.append(vector)
        return
    from squeezebert_fast.answering.embedding import as_numbers  # late, since it imports torch

    as_list = vector_format(path) == "jsonl"
    with row_writer(path, vector_format(path)) as write:

        def append(record: Record, shown: Mapping[str, object], vector: Tensor) -> None:
            values = as_numbers(vector.float().numpy())
            numbered: dict[str, object] = {f"v{at}": value for at, value in enumerate(values)}
            write(answered(record, shown, {"vector": values} if as_list else numbered, on_error))

        yield append


class NpyRows:
    """A .npy file that grows by rows, since how many there will be isn't known before the input ends.

    NumPy pads the header so that the number of rows can grow in place: it is written again at the end.
    """

    def __init__(self, stream: BinaryIO, channels: int) -> None:
        self.stream, self.channels, self.count = stream, channels, 0
        self._write_header()

    @classmethod
    @contextmanager
    def open(cls, path: Path, channels: int) -> Iterator[NpyRows]:
        with path.open("wb") as stream:
            rows = cls(stream, channels)
            yield rows
            rows._write_header()

    def append(self, row: Tensor) -> None:
        self.stream.write(row.float().numpy().tobytes())
        self.count += 1

    def _write_header(self) -> None:
        from numpy.lib import format

        header: dict[str, Any] = {
            "descr": "<f4",
            "fortran_order": False,
            "shape": (self.count, self.channels),
        }
        self.stream.seek(0)
        format.write_array_header_1_0(self.stream, header)


def read_vectors(path: Path) -> np.ndarray:
    """The vectors of a .npy file, [rows, channels], left on the disk. Raises InputError for anything else."""
    import numpy as np

    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:  # whose message advises to unpickle it
        raise InputError(f"{path} is not a .npy file of vectors, as embed writes them") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        found = f"{vectors.dtype} {list(vectors.shape)}" if isinstance(vectors, np.ndarray) else "an archive"
        raise InputError(f"{path} holds {found}, expected floating-point vectors [texts, channels]")
    return vectors
