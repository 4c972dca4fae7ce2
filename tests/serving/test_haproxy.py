"""The configuration that HAProxy gets in place of Serve's."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="serving needs Ray: pip install squeezebert-fast[ray]")

from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from squeezebert_fast.serving import cluster
from squeezebert_fast.serving.haproxy import confined


def test_a_client_has_seconds_for_its_headers_and_not_serves_hour() -> None:
    config = confined(HAPROXY_CONFIG_TEMPLATE, "/f", "127.0.0.1:8000")
    assert re.search(r"(?s)\ndefaults\n(?:    [^\n]*\n)*    timeout http-request 10s\n", config)


def rendered() -> str:
    """Serve's configuration for one application with a replica, as its template has it."""
    from ray.serve._private import haproxy

    backend = haproxy.BackendConfig(
        name="app",
        path_prefix="/",
        app_name="app",
        servers=[haproxy.ServerConfig("replica", "127.0.0.1", 1)],
        fallback_server=haproxy.ServerConfig("fallback", "127.0.0.1", 2),
    )
    made = haproxy.HAProxyApi.__new__(haproxy.HAProxyApi)
    return str(backend) + str(made)


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
