"""Files to read from: which ones a name stands for, what they hold by their suffixes, and their bytes as text."""

from __future__ import annotations

import codecs
import glob
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from squeezebert_fast.errors import InputError
from squeezebert_fast.tables.dataset_directory import is_dataset
from squeezebert_fast.tables.zstandard_file import open_zstandard

STDIN = "-"
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
"""The format of a file by its suffix."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""The suffixes of compressed files, behind that of their format."""

UTF16 = "begins as UTF-16 does; save it as UTF-8"
BEGINNINGS = {
    codecs.BOM_UTF16_LE: UTF16,
    codecs.BOM_UTF16_BE: UTF16,
    b"\x1f\x8b": "begins as a .gz file does, but isn't called so",
    b"PK\x03\x04": "begins as an Excel workbook does, or another .zip file; save it as CSV",
}
"""The first bytes of files that are no text, and what would help."""

UNDECODED = re.compile("[\udc80-\udcff]")
"""What stands for a byte that isn't UTF-8, see `Source`."""

STDIN_NAME = "standard input"

PIECE = 1 << 16  # bytes that are read at a time where lines don't matter


def name_of(source: str) -> str:
    """What a message calls a source."""
    return STDIN_NAME if source == STDIN else source


def suffix_format(path: str) -> str | None:
    """The format that a file's suffix says, whether or not it is compressed; None where it says nothing."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def files_of(source: str, format: str | None = None) -> list[str]:
    """The files that a name stands for, in the order of their names: itself, a folder's, or those of a glob.

    Of a folder it is the files with a suffix of SUFFIXES, or of whatever suffix if the format is given; without
    hidden ones and those like Spark's `_SUCCESS`.
    Raises InputError where there is nothing of that name, or nothing to read in it.
    """
    if not source:
        raise InputError(f"the name of the input is '', expected a file, a directory or {STDIN}")
    try:
        return _files_of(source, format)
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error


def _files_of(source: str, format: str | None) -> list[str]:
    if source == STDIN or is_dataset(Path(source)):
        return [source]
    path = Path(source)
    if path.is_dir():
        inside = [file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_"))]
        found = sorted(str(file) for file in inside if format is not None or suffix_format(str(file)))
        if not found:
            raise InputError(
                f"{source} is a directory without a file to read ({', '.join(SUFFIXES)}), and not one that the "
                "datasets library saved"
            )
        formats = {suffix_format(file) for file in found}
        if format is None and len(formats) > 1:
            kinds = ", ".join(sorted(str(each) for each in formats))
            raise InputError(f"{source} holds files of several formats ({kinds}); say which, as by '*.csv'")
        return found
    if path.exists():
        return [source]
    if glob.has_magic(source):
        found = sorted(file for file in glob.glob(source, recursive=True) if os.path.isfile(file))
        if found:
            return found
        raise InputError(f"no file is called like {source}")
    raise InputError(f"{source} doesn't exist")


class Source:
    """One file, or stdin. `size` is its bytes on disk, None if unknown, and `done` how many of them were read.

    strict: whether bytes that aren't UTF-8 are an error. Otherwise each becomes a lone surrogate (PEP 383), so that
    those who read the text can tell the row that it is in.
    """

    def __init__(self, path: str, *, strict: bool = True) -> None:
        self.path = path
        self._errors = "strict" if strict else "surrogateescape"
        self.name = name_of(path)
        self.size = os.path.getsize(path) or None if os.path.isfile(path) else None
        self.done = 0

    def lines(self) -> Iterator[str]:
        """Its lines with their ends, of which \\n is the only one. Raises InputError, with the line's number."""
        with self._open() as (stream, raw):
            for number, line in enumerate(stream, 1):
                self.done = self.done + len(line) if raw is None else raw.tell()
                if number == 1:
                    _check_start(line, self.name)
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8", self._errors)
                except UnicodeDecodeError as error:
                    place = f"{self.name}, line {number}"
                    raise InputError(f"{place}: {_not_utf8(error)}") from error

    def pieces(self) -> Iterator[str]:
        """Its text in pieces of some size. Raises InputError."""
        decode = codecs.getincrementaldecoder("utf-8-sig")(self._errors).decode
        with self._open() as (stream, raw):
            while piece := stream.read(PIECE):
                if not self.done:
                    _check_start(piece, self.name)
                self.done = self.done + len(piece) if raw is None else raw.tell()
                try:
                    yield decode(piece)
                except UnicodeDecodeError as error:
                    raise InputError(f"{self.name}: {_not_utf8(error)}") from error

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], IO[bytes] | None]]:
        """The bytes as they are to be read, and, where they come out of a compressed file, that file's."""
        if self.path == STDIN:
            yield sys.stdin.buffer, None
            return
        suffix = Path(self.path).suffix.lower()
        try:
            with open(self.path, "rb") as raw:
                if suffix not in COMPRESSED:
                    yield raw, None
                    return
                with _decompressed(raw, suffix, self.name) as stream:
                    yield stream, raw
        except OSError as error:
            raise InputError(f"{self.name} can't be read: {error.strerror}") from error


def holds_undecoded(value: object) -> bool:
    """Whether a text, or one of those within a JSON value, has what stands for a byte that isn't UTF-8."""
    if isinstance(value, str):
        return not value.isascii() and UNDECODED.search(value) is not None
    if isinstance(value, dict):
        return any(map(holds_undecoded, value.items()))
    return isinstance(value, list | tuple) and any(map(holds_undecoded, value))


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"the byte 0x{error.object[error.start]:02x} is not UTF-8 text"


def _check_start(start: bytes, name: str) -> None:
    """Raise InputError for the first bytes of a file that is no text, saying what it is."""
    even, odd = start[:4:2], start[1:4:2]
    zeros = len(start) >= 4 and any(even) != any(
        odd
    )  # UTF-16 without its mark: every other byte of ASCII text
    known = (said for begin, said in BEGINNINGS.items() if start.startswith(begin))
    if said := next(known, UTF16 if zeros else ""):
        raise InputError(f"{name} is no text: it {said}")


@contextmanager
def _decompressed(raw: IO[bytes], suffix: str, name: str) -> Iterator[IO[bytes]]:
    try:
        if suffix == ".zst":
            opened: Any = open_zstandard(raw, name)
        else:
            module = importlib.import_module({".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}[suffix])
            opened = module.open(raw, "rb")
    except ImportError as error:
        raise InputError(f"this Python can't read {name}: {error}") from error
    with opened as stream:
        yield _Checked(stream, name, suffix)  # type: ignore[misc]


class _Checked:
    """A compressed file's content, whose damage is an InputError."""

    def __init__(self, stream: IO[bytes], name: str, suffix: str) -> None:
        self._stream, self._said = stream, f"{name} is damaged, or not compressed as {suffix} says"

    def read(self, size: int) -> bytes:
        return self._or_refused(lambda: self._stream.read(size))

    def __iter__(self) -> Iterator[bytes]:
        while line := self._or_refused(self._stream.readline):
            yield line

    def _or_refused(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except Exception as error:  # each of the modules has errors of its own
            raise InputError(f"{self._said}: {error}") from error
