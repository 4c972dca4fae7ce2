"""A hub on loopback: the few answers of the real one that `huggingface_hub` needs to download files.

Each repository holds revisions, each revision a commit with files. Faults (a file cut short, a connection
that breaks off, a gated repository) are set per hub. Used as a context manager; `hub.use(monkeypatch)` points
this process at it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    revisions: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> file name -> content
    gated: bool = False


class FakeHub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.cut_short: dict[str, int] = {}  # file name -> bytes that a GET sends, as if they were all of it
        self.break_once_after: dict[str, int] = {}  # file name -> bytes after which the next GET breaks off
        self.seconds_to_answer = 0.0
        self.requests: list[str] = []  # "METHOD /path" of each for a file
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(
        self, name: str, files: Mapping[str, bytes], revision: str = "main", *, gated: bool = False
    ) -> str:
        """Store `files` as a new commit of repository `name` that `revision` points to; gives the commit."""
        repository = self.repositories.setdefault(name, Repository())
        repository.gated = gated
        text = repr(sorted(files.items())) + repr(sorted(repository.commits))
        commit = hashlib.sha1(text.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.revisions[revision] = commit
        return commit

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make `huggingface_hub` in this process ask this hub, without waiting between attempts."""
        point_huggingface_hub_at(self.endpoint, monkeypatch)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def point_huggingface_hub_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before the import, and attempts without pauses."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(
        file_download, "HUGGINGFACE_CO_URL_TEMPLATE", constants.HUGGINGFACE_CO_URL_TEMPLATE, raising=False
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            threading.Event().wait(hub.seconds_to_answer)
            path = unquote(urlsplit(self.path).path)
            name, separator, rest = path.strip("/").partition("/resolve/")
            if not separator:  # huggingface_hub asks for more than files, and files are what tests count
                return self.refuse(404, "EntryNotFound")
            hub.requests.append(f"{self.command} {path}")
            revision, _, filename = rest.partition("/")
            repository = hub.repositories.get(name)
            if repository is None:
                return self.refuse(404, "RepoNotFound")
            if repository.gated and "Authorization" not in self.headers:
                return self.refuse(401, "GatedRepo")
            commit = repository.revisions.get(revision, revision)
            files = repository.commits.get(commit)
            if files is None:
                return self.refuse(404, "RevisionNotFound")
            if filename not in files:
                return self.refuse(404, "EntryNotFound", commit)
            self.send_content(filename, files[filename], commit, with_body=with_body)

        def send_content(self, filename: str, content: bytes, commit: str, *, with_body: bool) -> None:
            etag = hashlib.sha1(content).hexdigest()
            asked = self.headers.get("Range", "")
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            body = content[start:]
            if with_body and filename in hub.cut_short:
                body = content[start : hub.cut_short[filename]]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if not with_body:
                return
            limit = hub.break_once_after.pop(filename, None)
            if limit is None:
                self.wfile.write(body)
                return
            self.wfile.write(body[:limit])
            self.close_connection = True

        def refuse(self, status: int, code: str, commit: str | None = None) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            if commit is not None:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
