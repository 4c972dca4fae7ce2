"""The runtime's text side, built for the tests and called by ctypes."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "csrc/runtime/text").glob("*.cpp")), ROOT / "csrc/tests/runtime/text_library.cpp"]
HEADERS = [
    *(ROOT / "csrc/runtime").glob("*.h"),
    *(ROOT / "csrc/runtime/text").glob("*.h"),
    *(ROOT / "csrc/runtime/text").glob("*.inc"),
]
FOLDER = ROOT / "build" / "runtime_text"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]

BAD_FILE, UNSUPPORTED, BAD_TEXT = 3, 4, 5
UNLIMITED = 2**63 - 1


class RuntimeTextError(Exception):
    """An error of the C++, with the code of the C API."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@cache
def library() -> ctypes.CDLL:
    """The library, compiled where its sources have changed."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"needs a C++ compiler, {compiler[0]}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    newest_header = max(path.stat().st_mtime for path in HEADERS)
    objects = []
    for source in SOURCES:
        target = FOLDER / f"{source.stem}.o"
        objects.append(str(target))
        if target.exists() and target.stat().st_mtime > max(newest_header, source.stat().st_mtime):
            continue
        _replacing(target, [*compiler, *FLAGS, "-c", str(source)])
    path = FOLDER / "libtext.so"
    if not path.exists() or path.stat().st_mtime < max(Path(each).stat().st_mtime for each in objects):
        _replacing(path, [*compiler, "-shared", *objects])
    loaded = ctypes.CDLL(str(path))
    for name in ("tokenizer_open", "tokenizer_encode", "tokenizer_number", "tokenizer_token"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name in ("normalize", "malformed", "json_outline"):
        getattr(loaded, name).restype = ctypes.c_int64
    loaded.last_message.restype = ctypes.c_char_p
    loaded.last_output.restype = ctypes.c_void_p
    return loaded


def _replacing(target: Path, command: list[str]) -> None:
    """Run a compiler so that other processes of the tests, who may do the same, never see half a file."""
    made = target.with_suffix(f".{os.getpid()}")
    result = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    os.replace(made, target)


def checked(result: int) -> int:
    """The result of a call; raises RuntimeTextError."""
    if result < 0:
        raise RuntimeTextError(-result, library().last_message().decode("utf-8"))
    return result


def _output(size: int) -> bytes:
    return ctypes.string_at(library().last_output(), size)


def normalized(text: str, *, lower: bool, strip: bool, cjk: bool) -> str:
    """What the C++ normalizer gives."""
    content = text.encode()
    return _output(library().normalize(content, ctypes.c_int64(len(content)), lower, strip, cjk)).decode()


def malformed(text: bytes) -> int:
    """Where the first malformed sequence begins, -1 if none does."""
    return library().malformed(text, ctypes.c_int64(len(text)))


def json_outline(text: bytes) -> list[str]:
    """A line of place and summary for each value; raises RuntimeTextError."""
    return _output(checked(library().json_outline(text, ctypes.c_int64(len(text))))).decode().splitlines()


class RuntimeTokenizer:
    """The C++ tokenizer of a folder; raises RuntimeTextError."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._library = library()
        self._handle = ctypes.c_void_p()
        checked(self._library.tokenizer_open(os.fsencode(folder), ctypes.byref(self._handle)))
        numbers = [self._library.tokenizer_number(self._handle, which) for which in range(4)]
        self.size, self.model_max_length, self.mask_id, self.pad_id = numbers

    def __del__(self) -> None:
        if self._handle:
            self._library.tokenizer_close(self._handle)

    def encode(
        self, text: str | bytes, second: str | bytes | None = None, max_length: int = -1
    ) -> tuple[list[int], list[int]]:
        """Ids and token types."""
        first, other = (part.encode() if isinstance(part, str) else part for part in (text, second))
        assert first is not None
        room = 4 * (len(first) + len(other or b"")) + 8 if max_length < 0 else max(max_length, 1)
        ids, types = (ctypes.c_int64 * room)(), (ctypes.c_int64 * room)()
        sizes = ctypes.c_int64(len(first)), ctypes.c_int64(len(other or b""))
        count = checked(
            self._library.tokenizer_encode(
                *(self._handle, first, sizes[0], other, sizes[1]),
                *(ctypes.c_int64(max_length), ids, types, ctypes.c_int64(room)),
            )
        )
        return ids[:count], types[:count]

    def token(self, code: int) -> str | None:
        """The token of an id."""
        size = self._library.tokenizer_token(self._handle, ctypes.c_int64(code))
        return None if size < 0 else _output(size).decode()
