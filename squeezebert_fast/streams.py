"""Standard streams, which may be missing or go away, and the warnings that go to one of them.

A daemon has none; a pipe's reader may end first.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "squeezebert-fast"
NAMES = ("stdin", "stdout", "stderr")

_missing: set[str] = set()


def open_missing_streams() -> None:
    """Put the null device wherever this process was started without stdin, stdout or stderr, as by `>&-`.

    Not only for Python, whose sys.stdout is then None: the next file to be opened would get the free descriptor, and a
    native library's message to descriptor 2 would end up within, say, a checkpoint.
    """
    for descriptor, name in enumerate(NAMES):
        flags, mode = (os.O_RDONLY, "r") if name == "stdin" else (os.O_WRONLY, "w")
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, flags)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
        if getattr(sys, name) is None:
            _missing.add(name)
            null = os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", errors="backslashreplace"))


def is_missing(name: str) -> bool:
    """Whether the process was started without the stream of that name, one of NAMES."""
    return name in _missing


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody watches: False also for the None that stands for a stream that isn't there."""
    return stream is not None and stream.isatty()


def progress_console() -> Console:
    """What to draw a progress bar on: stderr, which may be closed while the work that it shows goes on."""
    from rich.console import Console

    return Console(file=cast(TextIO, _Outlived(sys.stderr)))


class _Outlived:
    """A stream that takes what is written to it, whether or not there is still somebody to see it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            give_up(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            give_up(self._stream)

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno
        return getattr(self._stream, name)


def give_up(stream: TextIO | None) -> None:
    """Let what is written to a stream from now on go nowhere, for a pipe that nobody reads any more.

    What is in its buffer already goes there too: flushing it, at the latest at the interpreter's end, would fail again.
    """
    with suppress(OSError, ValueError, AttributeError):  # one without a descriptor, closed, or None
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        finally:
            os.close(null)


@contextmanager
def held_warnings() -> Iterator[None]:
    """Print this package's warnings, each once, when the block ends well: an error is to be the only line on stderr."""
    logger = logging.getLogger("squeezebert_fast")
    printer = logging.StreamHandler(sys.stderr)
    printer.setFormatter(logging.Formatter(f"{PROGRAM}: warning: %(message)s"))
    held = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1, target=printer, flushOnClose=False)
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:  # the same data may be read for teacher and student
        known = len(said)
        said.add(record.getMessage())
        return len(said) > known

    held.addFilter(is_new)
    logger.addHandler(held)
    try:
        yield
        held.flush()
    finally:
        logger.removeHandler(held)
        held.close()
