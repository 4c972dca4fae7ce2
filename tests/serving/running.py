"""A server as a process, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS, STOP_SECONDS = 180, 60
MARK = "SQUEEZEBERT_FAST_TEST_SERVER"
"""In the environment of a server and all that it starts, so that none of it is missed."""


@dataclass
class Running:
    """process: the command's. url: where it is. stderr: a file with what it says. mark: its value of MARK."""

    process: subprocess.Popen[bytes]
    url: str
    stderr: Path
    mark: str

    def post(self, path: str, body: Any, timeout: float = 60) -> tuple[int, Any, Message]:
        """Status, JSON and headers of the answer."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.load(response), response.headers
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), error.headers

    def get(self, path: str, timeout: float = 20) -> str:
        with urllib.request.urlopen(self.url + path, timeout=timeout) as response:
            return response.read().decode()

    def number(self, name: str) -> float:
        """The value of a metric, by its name with labels as /metrics has it; 0 if it isn't there yet."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def family(self, words: str = "") -> list[psutil.Process]:
        """All processes of the server, whoever has them as children by now, or those with these words as a command."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = (
                    process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
                )
                if is_ours and words in "".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it ended meanwhile
                continue
        return found

    def replicas(self) -> list[psutil.Process]:
        """Its replicas' processes, those among them that still start."""
        return self.family("ServeReplica")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(condition: Any, seconds: float = 30) -> None:
    """Wait for what must come true, a time that only a fault exceeds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@contextmanager
def serving(
    folder: Path, model: Path, *options: object, port: int | None = None, own_group: bool = False
) -> Iterator[Running]:
    """A server of this model that is ready; nothing of it is left afterwards. folder: for what it says.

    own_group: whether its processes are a group, for signals to all of them.
    """
    port = port or free_port()
    stderr = folder / f"stderr-{port}.txt"
    mark = f"{os.getpid()}-{port}"
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            command(model, "--port", port, *options),
            stdout=subprocess.DEVNULL,
            stderr=file,
            env=environment() | {MARK: mark},
            cwd=ROOT,
            start_new_session=own_group,
        )
    server = Running(process, f"http://127.0.0.1:{port}", stderr, mark)
    try:
        until(lambda: process.poll() is not None or "ready" in stderr.read_text(), START_SECONDS)
        assert process.poll() is None, stderr.read_text()
        yield server
    finally:
        if process.poll() is None:
            server.stop()
        until(lambda: not server.family())


def command(model: object, *options: object) -> list[str]:
    return [sys.executable, "-m", "squeezebert_fast", "serve", "-m", *map(str, (model, *options))]


def environment() -> dict[str, str]:
    usual = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**usual, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
