"""A Ray cluster: the one at an address, or one of this machine alone that ends with its work."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from squeezebert_fast.errors import ClusterError
from squeezebert_fast.signals import ending_in_order, put_off

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, which is started and stopped."""

SECONDS_TO_CONNECT = 10
VARIABLES = "SQUEEZEBERT_FAST_"
"""How their names begin."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of this process; the cluster's own go to files
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without which there is a warning
}
SHORT = Path("/tmp")
"""Where the cluster's sockets are, whose names have 107 characters at most."""


def library() -> Any:
    """The module ray, with ray.data. Raises ClusterError where it isn't installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ClusterError(f"this needs Ray ({error}); pip install squeezebert-fast[ray]") from error
    return importlib.import_module("ray")


@contextmanager
def connected(address: str, workers: int | None, threads: int) -> Iterator[int]:
    """Connect this process to a cluster while the block runs, and give the number of workers that it is to have.

    address: as `ray.init` takes it, or LOCAL. workers: None for as many as there are CPUs for, of `threads` each. A
    process that is connected to a cluster already stays so.
    Raises ClusterError where there is no cluster, or none of its nodes has so many CPUs.
    """
    ray = library()
    if ray.is_initialized():
        yield workers or _room(ray, threads)
        return
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        workers = workers or max(1, _own_cpus() // threads)
        with ending_in_order(), _folder() as folder:
            try:
                try:
                    with put_off(), _silence():
                        ray.init(
                            address=LOCAL,
                            num_cpus=workers * threads,
                            include_dashboard=False,
                            _node_ip_address="127.0.0.1",
                            _temp_dir=str(folder),
                            **quietly,
                        )
                except Exception as error:  # no memory, no room, no ports: Ray raises whatever it meets
                    raise ClusterError(f"a Ray cluster can't be started here: {_one_line(error)}") from error
                yield workers
            finally:
                with put_off():
                    ray.shutdown()
        return
    _check_reach(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    with ending_in_order():
        try:
            try:
                with put_off(), _silence():
                    ray.init(address=address, runtime_env=_environment(), **quietly)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ClusterError(
                    f"there is no Ray cluster at {address}, or its RAY_AUTH_TOKEN is another: {_one_line(error)}"
                ) from error
            yield workers or _room(ray, threads)
        finally:
            with put_off():
                ray.shutdown()


@contextmanager
def unheard() -> Iterator[None]:
    """Let Ray say nothing while the block runs: Ray Data's log goes to its file alone, and stdout nowhere, on which Ray
    prints that it repeats what a worker that died had begun."""
    logger = logging.getLogger("ray.data")
    printing = [each for each in logger.handlers if isinstance(each, logging.StreamHandler)]
    with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(null):
        try:
            for handler in printing:
                logger.removeHandler(handler)
            yield
        finally:
            for handler in printing:
                logger.addHandler(handler)


def _environment() -> dict[str, Any] | None:
    """This package's environment variables, which hold for workers on other nodes too."""
    found = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    return {"env_vars": found} if found else None


def _check_reach(address: str) -> None:
    """Raise ClusterError where nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(f"there is no Ray cluster at {address}: {error}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Let nobody write to stderr while the block runs: Ray's native code says there how much it is to say."""
    with open(os.devnull, "wb") as null:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(null.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _room(ray: Any, threads: int) -> int:
    """How many workers of so many threads the nodes that there are have CPUs for."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    room = sum(int(cpus // threads) for cpus in nodes)
    if not room:
        raise ClusterError(
            f"--threads is {threads}, but no node of the cluster has so many CPUs (the most: {max(nodes, default=0):g})"
        )
    return room


def _own_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir=SHORT if SHORT.is_dir() else None))
    except OSError as error:
        raise ClusterError(f"a Ray cluster can't be started here: {error}") from error
    try:
        yield folder
    finally:
        with put_off():
            shutil.rmtree(folder, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
