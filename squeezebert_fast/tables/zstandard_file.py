"""Reading .zst files: by Python's own module from 3.14 on, before that by the package zstandard."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from typing import IO, Any

from squeezebert_fast.errors import InputError

PIECE = 1 << 16  # compressed bytes that are read at a time


def open_zstandard(raw: IO[bytes], name: str) -> IO[bytes]:
    """What a compressed file holds. Reading raises EOFError where it ends too early, ValueError where it is damaged.

    Raises InputError without a module for it.
    """
    own = sys.version_info >= (3, 14)
    try:
        module: Any = importlib.import_module("compression.zstd" if own else "zstandard")
    except ImportError as error:
        raise InputError(
            f"reading {name} needs zstandard ({error}); pip install squeezebert-fast[zstd]"
        ) from error
    make = module.ZstdDecompressor if own else module.ZstdDecompressor().decompressobj
    return io.BufferedReader(_Stream(_frames(raw, make, module.ZstdError)))


def _frames(raw: IO[bytes], make: Any, failure: type[Exception]) -> Iterator[bytes]:
    """The content of all frames, of which a file may have several. make: a decompressor of one frame."""
    frame = None
    while piece := raw.read(PIECE):
        while piece:
            frame = frame or make()
            try:
                yield frame.decompress(piece)
            except failure as error:
                raise ValueError(str(error)) from error
            piece, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("it ends within a frame")


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
