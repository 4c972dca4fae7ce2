"""Closed-loop clients of an HTTP server: each connection asks its next question when its last one is answered.

One thread, one `epoll`, requests that are bytes before anything is timed: on two cores a client takes from the server
whatever it computes itself. `Client` runs in a process of its own (`squeezebert_fast.benchmark.Turns`).
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

HOST = "127.0.0.1"
RECEIVED_BYTES = 1 << 18
SILENCE_SECONDS = 120.0
"""How long no connection may get a byte before the server counts as gone."""


@dataclass(frozen=True)
class Request:
    """body: what is posted to `path`. statuses: the expected ones. vectors: that a 200 must hold."""

    path: str
    body: bytes
    statuses: tuple[int, ...] = (200,)
    vectors: int = 0
    least_bytes: int = 0
    """Of the answer, a vector."""

    def bytes(self) -> bytes:
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode("ascii") + self.body

    def fault(self, status: int, body: bytes) -> str | None:
        """What is wrong with an answer, or None."""
        if status not in self.statuses:
            return f"{status} instead of {self.statuses}: {body[:200].decode('utf-8', 'replace')}"
        if status == 200 and (found := body.count(b'"index"')) != self.vectors:
            return f"{found} vectors instead of {self.vectors}"
        if status == 200 and len(body) < self.vectors * self.least_bytes:
            return f"{len(body)} bytes for {self.vectors} vectors"
        return None


@dataclass
class Answers:
    """Of one run. seconds: of each answer, as they came. elapsed: of all. own: CPU seconds that the client took.

    statuses: how often each came. faults: how often each thing was wrong.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    elapsed: float = 0.0
    own: float = 0.0


class BadAnswer(Exception):
    """What came isn't HTTP/1.1 with a length."""


def split_answer(data: bytes | bytearray) -> tuple[int, bytes, bool] | None:
    """Status, body and whether the connection is to be closed, once all of an answer is there; else None."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(data[:end]).split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if version != b"HTTP/1.1" or not rest[:3].isdigit():
        raise BadAnswer(f"no status in {first[:100]!r}")
    pairs = (line.partition(b":") for line in lines)
    headers = {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
    closes = headers.get(b"connection") == b"close"
    body = bytes(data[end + 4 :])
    if b"content-length" in headers:
        length = int(headers[b"content-length"])
        return None if len(body) < length else (int(rest[:3]), body[:length], closes)
    if headers.get(b"transfer-encoding") == b"chunked":
        whole = _joined(body)
        return None if whole is None else (int(rest[:3]), whole, closes)
    raise BadAnswer("the answer has neither a length nor chunks")


def _joined(data: bytes) -> bytes | None:
    """The chunks in one, once the last is there."""
    parts, at = [], 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts) if data[end:].startswith(b"\r\n\r\n") else None
        if len(data) < end + 2 + size + 2:
            return None
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return None


class _Connection:
    """One socket: what it still has to send, what has come, and since when it waits."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self._port, self._selector = port, selector
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection((HOST, self._port), timeout=SILENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._received, self._unsent = bytearray(), memoryview(b"")
        self._selector.register(self._socket, selectors.EVENT_READ, self)

    def close(self) -> None:
        self._selector.unregister(self._socket)
        self._socket.close()

    def ask(self, request: Request, data: bytes) -> None:
        self._request, self._unsent, self._since = request, memoryview(data), time.perf_counter()
        self._received.clear()
        self._send()
        if self._unsent:
            self._selector.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _send(self) -> None:
        """As much as the socket takes. Whether the server took it all, its answer tells."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            self._unsent = memoryview(b"")

    def go_on(self, mask: int, answers: Answers) -> bool:
        """Send and receive; whether the question is done with, which `answers` then knows."""
        if mask & selectors.EVENT_WRITE:
            self._send()
            if not self._unsent:
                self._selector.modify(self._socket, selectors.EVENT_READ, self)
        if not mask & selectors.EVENT_READ:
            return False
        try:
            data = self._socket.recv(RECEIVED_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        self._received += data
        try:
            answer = split_answer(self._received)
        except BadAnswer as bad:
            return self._failed(answers, str(bad))
        if answer is None:
            return False if data else self._failed(answers, "the connection was closed without an answer")
        status, body, closes = answer
        answers.seconds.append(time.perf_counter() - self._since)
        answers.statuses[status] += 1
        if (fault := self._request.fault(status, body)) is not None:
            answers.faults[fault] += 1
        if closes or not data or self._unsent:
            self._again()
        return True

    def _failed(self, answers: Answers, fault: str) -> bool:
        answers.faults[fault] += 1
        self._again()
        return True

    def _again(self) -> None:
        self.close()
        self._open()


class Client:
    """Asks the same requests of any server. requests: taken one after the other, again from the first on."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = [(each, each.bytes()) for each in requests]

    def prepare(self) -> None:
        """Nothing lies between two runs."""

    def run(self, port: int, connections: int, seconds: float, limit: int | None = None) -> Answers:
        """Ask for `seconds`, at most `limit` questions, then wait for the last answers.

        A server that closes a connection without an answer, or sends none for SILENCE_SECONDS, is a fault.
        """
        answers = Answers()
        questions = islice(cycle(self._requests), limit)
        began, cpu = time.perf_counter(), time.process_time()
        with selectors.DefaultSelector() as selector:
            waiting = 0
            for _ in range(connections):
                waiting += _asked(_Connection(port, selector), questions, began + seconds)
            while waiting:
                events = selector.select(SILENCE_SECONDS)
                if not events:
                    answers.faults[f"no answer for {SILENCE_SECONDS:.0f} s"] += waiting
                    break
                for key, mask in events:
                    if key.data.go_on(mask, answers):
                        waiting += _asked(key.data, questions, began + seconds) - 1
        answers.elapsed, answers.own = time.perf_counter() - began, time.process_time() - cpu
        return answers


def _asked(connection: _Connection, questions: Iterator[tuple[Request, bytes]], deadline: float) -> bool:
    """Whether there was a question left, and time; the connection is closed if not."""
    question = next(questions, None) if time.perf_counter() < deadline else None
    if question is None:
        connection.close()
        return False
    connection.ask(*question)
    return True
