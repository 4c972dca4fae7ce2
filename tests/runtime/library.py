"""The runtime, built by CMake for the tests: its program, and its library by ctypes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "runtime"
PROGRAM = FOLDER / "squeezebert-run"

BUILT_VARIABLE = "SQUEEZEBERT_TEST_RUNTIME"
"""Environment variable with the folder of a library that is built already: an emulated Python can't run CMake."""

INVALID_ARGUMENT, NOT_FOUND, BAD_FILE, UNSUPPORTED, BAD_TEXT = 1, 2, 3, 4, 5
NO_LABELS, SINGLE_LABEL, MULTI_LABEL, REGRESSION = range(4)


def tool(name: str) -> str:
    """The command of the pip package beside Python, or of the system."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"needs {name}: pip install cmake ninja")
    return found


def build(folder: Path, *options: str) -> Path:
    """Build what has changed; processes of the tests take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    make = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["-S", str(ROOT), "-B", str(folder), "-G", "Ninja", make, *options],
            ["--build", str(folder)],
        ):
            result = subprocess.run([tool("cmake"), *command], capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


@cache
def program() -> Path:
    """squeezebert-run for this machine."""
    return build(FOLDER) / "squeezebert-run"


def run(
    *arguments: str | os.PathLike[str], lines: str | bytes | None = None, command: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """squeezebert-run with these arguments, and these lines as its input. command: what runs it in its place."""
    given = lines.encode() if isinstance(lines, str) else lines or b""
    whole = [*(command or (str(program()),)), *map(os.fspath, arguments)]
    done = subprocess.run(whole, input=given, capture_output=True, check=False)
    return subprocess.CompletedProcess(
        whole, done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    )


class Candidate(ctypes.Structure):
    """squeezebert_candidate."""

    _fields_ = (
        ("id", ctypes.c_int64),
        ("logit", ctypes.c_float),
        ("score", ctypes.c_float),
        ("token", ctypes.c_void_p),
        ("token_bytes", ctypes.c_size_t),
    )


@cache
def library() -> Any:
    """squeezebert.h."""
    folder = os.environ.get(BUILT_VARIABLE) or program().parent
    loaded: Any = ctypes.CDLL(str(Path(folder) / "libsqueezebert.so"))
    for name in ("version", "last_error", "label"):
        getattr(loaded, f"squeezebert_{name}").restype = ctypes.c_char_p
    for name in ("label_count", "embedding_size"):
        getattr(loaded, f"squeezebert_{name}").restype = ctypes.c_size_t
    loaded.squeezebert_token.restype = ctypes.c_void_p
    loaded.squeezebert_close.restype = None
    return loaded


class RuntimeFailure(Exception):
    """A call that failed, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check(status: int) -> None:
    if status:
        raise RuntimeFailure(status, library().squeezebert_last_error().decode())


def _text(text: str | bytes | None) -> tuple[bytes | None, ctypes.c_size_t]:
    given = text.encode() if isinstance(text, str) else text
    return given, ctypes.c_size_t(len(given or b""))


class RuntimeModel:
    """A model by the C API; raises RuntimeFailure."""

    def __init__(
        self, folder: str | os.PathLike[str], precision: str | None = None, threads: int = 1
    ) -> None:
        self._library, self.handle = library(), ctypes.c_void_p()
        name = None if precision is None else precision.encode()
        check(self._library.squeezebert_open(os.fsencode(folder), name, ctypes.byref(self.handle)))
        self.set_threads(threads)
        self.channels = self._library.squeezebert_embedding_size(self.handle)

    def __del__(self) -> None:
        self._library.squeezebert_close(self.handle)

    def set_threads(self, threads: int) -> None:
        check(self._library.squeezebert_set_threads(self.handle, threads))

    @property
    def labels(self) -> list[str]:
        count = self._library.squeezebert_label_count(self.handle)
        return [
            self._library.squeezebert_label(self.handle, ctypes.c_size_t(i)).decode() for i in range(count)
        ]

    @property
    def kind(self) -> int:
        return self._library.squeezebert_label_kind(self.handle)

    def classify(self, text: str | bytes, second: str | None = None) -> tuple[list[float], list[float]]:
        """Logits and scores."""
        count = self._library.squeezebert_label_count(self.handle)
        logits, scores = (ctypes.c_float * count)(), (ctypes.c_float * count)()
        check(self._library.squeezebert_classify(self.handle, *_text(text), *_text(second), logits, scores))
        return list(logits), list(scores)

    def fill(self, text: str | bytes, top: int) -> list[list[tuple[str, float, float]]]:
        """For each mask tokens with logit and score."""
        masks, size = ctypes.c_size_t(), ctypes.c_size_t
        fill = self._library.squeezebert_fill_mask
        check(fill(self.handle, *_text(text), size(top), None, size(0), ctypes.byref(masks)))
        found = (Candidate * (masks.value * top))()
        check(fill(self.handle, *_text(text), size(top), found, size(len(found)), ctypes.byref(masks)))
        named = [(ctypes.string_at(c.token, c.token_bytes).decode(), c.logit, c.score) for c in found]
        return [named[i : i + top] for i in range(0, len(named), top)]

    def embed(self, text: str | bytes, normalize: bool = False) -> list[float]:
        vector = (ctypes.c_float * self.channels)()
        check(self._library.squeezebert_embed(self.handle, *_text(text), int(normalize), vector))
        return list(vector)

    def tokenize(self, text: str | bytes, second: str | None = None) -> tuple[list[int], list[int]]:
        """Ids and token types."""
        count, size = ctypes.c_size_t(), ctypes.c_size_t
        call = self._library.squeezebert_tokenize
        texts = (*_text(text), *_text(second))
        check(call(self.handle, *texts, None, None, size(0), ctypes.byref(count)))
        ids, types = ((ctypes.c_int64 * count.value)() for _ in range(2))
        check(call(self.handle, *texts, ids, types, count, ctypes.byref(count)))
        return list(ids), list(types)

    def hidden_states(self, ids: list[int], types: list[int] | None = None) -> list[float]:
        """[tokens, channels], flat."""
        states = (ctypes.c_float * (len(ids) * self.channels))()
        given = (ctypes.c_int64 * len(ids))(*ids)
        kinds = None if types is None else (ctypes.c_int64 * len(ids))(*types)
        call = self._library.squeezebert_hidden_states
        check(call(self.handle, given, kinds, ctypes.c_size_t(len(ids)), states))
        return list(states)
