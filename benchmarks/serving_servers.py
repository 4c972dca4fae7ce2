"""The servers that are measured: how each is started, asked and ended, and the memory that it takes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving_client import HOST
from squeezebert_fast.benchmark import CandidateFailed

START_SECONDS, END_SECONDS = 180.0, 60.0
MARK = "SQUEEZEBERT_FAST_BENCHMARK"
"""A variable in the environment of every process of a server, whoever started it: by it they are found."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
MODEL_NAME = "model"
"""What every server calls the model."""


@dataclass(frozen=True)
class Server:
    """command: for a port. path: of OpenAI's embeddings. ready: what answers 200 once the model is loaded."""

    name: str
    command: Callable[[int], list[str]]
    path: str
    ready: str
    precision: str = "float32"

    def shown_command(self) -> str:
        """As it is written: programs and folders by their last names."""
        return " ".join(word.rpartition("/")[2] for word in self.command(0))


OURS = "squeezebert_fast"


def squeezebert(model: Path, precision: str, options: Sequence[str] = ()) -> Server:
    """Ours. options: of the command, besides those here."""

    def command(port: int) -> list[str]:
        words = [sys.executable, "-m", "squeezebert_fast", "serve", "--model", str(model)]
        words += ["--served-name", MODEL_NAME, "--host", HOST, "--port", str(port), "--precision", precision]
        return [*words, *options]

    return Server(OURS, command, "/v1/embeddings", "/ready", precision)


def infinity(program: Path, model: Path, engine: str, options: Sequence[str]) -> Server:
    """infinity-emb. program: its command."""

    def command(port: int) -> list[str]:
        words = [
            str(program),
            "v2",
            "--model-id",
            str(model),
            "--served-model-name",
            MODEL_NAME,
            "--device",
            "cpu",
        ]
        words += ["--engine", engine, "--host", HOST, "--port", str(port), "--log-level", "error"]
        return [*words, *options]

    return Server(f"infinity, {engine}", command, "/embeddings", "/health")


@dataclass(frozen=True)
class Running:
    """A server that answers. mark: of its processes. log: what they wrote."""

    server: Server
    port: int
    mark: str
    log: Path

    def post(self, body: bytes) -> bytes:
        """The answer to one question of OpenAI's endpoint. Raises CandidateFailed."""
        url = f"http://{HOST}:{self.port}{self.server.path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
                content: bytes = answer.read()
                return content
        except (urllib.error.URLError, OSError) as error:
            raise CandidateFailed(f"{self.server.name}: {error}") from None

    def memory(self) -> tuple[int, int]:
        """PSS of all its processes, in bytes, and how many they are: a page that several share counts once in all."""
        pids = marked(self.mark)
        return sum(map(_proportional_bytes, pids)), len(pids)

    def cpu_seconds(self) -> float:
        """That its processes have computed so far."""
        return sum(map(_cpu_seconds, marked(self.mark)))


@contextmanager
def running(server: Server, folder: Path) -> Iterator[Running]:
    """The server, from when it can be asked. folder: for its log. Raises CandidateFailed if it doesn't get there."""
    port, mark = free_port(), uuid.uuid4().hex
    log = folder / f"{mark}.log"
    environment = {**os.environ, **OFFLINE, MARK: mark}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            server.command(port),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C is ours: this ends it
        )
    try:
        _await(process, server, port, log)
        yield Running(server, port, mark, log)
    finally:
        _end(process, mark)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def marked(mark: str) -> list[int]:
    """The processes that have `mark` in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended, or is another user's
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def _await(process: subprocess.Popen[bytes], server: Server, port: int, log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        url = f"http://{HOST}:{port}{server.ready}"
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None:
            raise CandidateFailed(f"{server.name} ended with {process.returncode}: {_last_line(log)}")
        time.sleep(0.1)
    raise CandidateFailed(f"{server.name} wasn't ready within {START_SECONDS:.0f} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    """The last line with letters in it: what frames a message has none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if re.search("[A-Za-z]", line)), "it said nothing")


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """As its user would, and then whatever is left of it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _proportional_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"(?m)^Pss:\s+(\d+) kB$", rollup)
    return 1024 * int(found[1]) if found else 0


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime
