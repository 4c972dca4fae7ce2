"""A server that speaks the page's part of the API and answers what a test wants, odd answers among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import squeezebert_fast

PAGE = Path(squeezebert_fast.__file__).parent / "serving" / "page.html"
"""What a browser gets at `/`."""

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Status, content (a str as it is, all else as JSON), and headers."""


@dataclass
class FakeServer:
    """url: where it is. asked: path and JSON of every POST."""

    url: str
    answers: dict[str, Callable[[Any], Answer]]
    asked: list[tuple[str, Any]] = field(default_factory=list)


@contextmanager
def fake_server(model: dict[str, Any], **answers: Callable[[Any], Answer]) -> Iterator[FakeServer]:
    """A server for one model. model: its entry in /v1/models. answers: by the last word of the path, from the JSON."""
    served = FakeServer("", {name.replace("_", "-"): answer for name, answer in answers.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._answer(
                    200, PAGE.read_text(encoding="utf-8"), {"Content-Type": "text/html; charset=utf-8"}
                )
            elif self.path == "/v1/models" and "models" not in served.answers:
                self._answer(200, {"object": "list", "data": [model]})
            else:
                self._look_up(None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append((self.path, body))
            self._look_up(body)

        def _look_up(self, body: Any) -> None:
            answer = served.answers.get(
                self.path.rpartition("/")[2], lambda _: (404, {"detail": "no such path"})
            )
            self._answer(*answer(body))

        def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
