"""A server from its start to its end."""

from __future__ import annotations

import dataclasses
import http.client
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import Any

from squeezebert_fast.errors import CheckpointError, InputError
from squeezebert_fast.serving import cluster, haproxy
from squeezebert_fast.serving.models import served
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.streams import PROGRAM

APP = "squeezebert-fast"
SECONDS_TO_END = 0.5
"""How long Ray's processes are given to end by themselves, in case the signal reached them too."""
SECONDS_BETWEEN_CHECKS = 0.02
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OF_REPLICA = re.compile(r"^\s*[\w.]*(?:Error|Exception): (.+)", re.MULTILINE)


class Stopped(BaseException):
    """A signal came that asks the server to end. BaseException: nothing on the way may take it for a failure."""

    def __init__(self, number: int) -> None:
        self.number = number


def run(model: str, options: ServingOptions, *, host: str, port: int, ray: str | None = None) -> int:
    """Serve a model until a signal comes, and give the exit code: 0 after SIGTERM, 130 after SIGINT.

    ray: the address of a cluster to run on. Where its Serve runs already, it has its own host and port.
    Raises InputError for an address that can't be listened at or reached, and what is wrong with the model.
    """
    before = _raise_signals()
    try:
        _serve(model, options, host, port, ray)
    except Stopped as stopped:
        code = 0 if stopped.number == signal.SIGTERM else 128 + stopped.number
        cluster.leave_if_ended(code)
        return code
    except SystemExit as exit:
        if exit.code != signal.SIGTERM:
            raise
        return 0  # that is what Ray makes of SIGTERM while it starts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _serve(model: str, options: ServingOptions, host: str, port: int, ray: str | None) -> None:
    name = served(
        model, options
    ).name  # what is wrong with folder or options is said before anything is started
    with ExitStack() as stack:
        metrics = None
        if ray is None:
            address = free_address(host, port)
            folder = stack.enter_context(cluster.server_folder())
            metrics = folder / "metrics"
            metrics.mkdir()
            threads = options.threads or max(1, cluster.cpus() // options.replicas)
            options = dataclasses.replace(options, threads=threads)
            stack.enter_context(cluster.own_cluster(folder, address, threads * options.replicas))
        else:
            stack.enter_context(cluster.joined_cluster(ray))
        from ray import serve

        _raise_signals()  # Ray has put its own in their place, which end the process
        cluster.quiet()
        # HAProxy's configuration gets the host later, and replicas, which Serve gives the same, stay at loopback
        inner = cluster.LOOPBACK if ray is None and cluster.haproxy_program() else host
        where = "HeadOnly" if ray is None else "EveryNode"
        serve.start(proxy_location=where, http_options={"host": inner, "port": port})
        _deploy(model, options, None if metrics is None else str(metrics))
        place = f"http://{address}" if ray is None else f"the Ray cluster at {ray}"
        if ray is None:
            _wait_until_ready(address)
            if cluster.haproxy_program():
                _wait_for_haproxy(folder, options.replicas)
        print(f"{PROGRAM}: {name} is ready at {place} (end with Ctrl-C)", file=sys.stderr, flush=True)
        try:
            threading.Event().wait()
        finally:
            with suppress(Stopped):  # a second signal: don't wait for what is under way
                time.sleep(SECONDS_TO_END)
                if not cluster.has_ended():
                    serve.delete(APP)


def _deploy(model: str, options: ServingOptions, metrics_folder: str | None) -> None:
    from ray import serve

    from squeezebert_fast.serving.application import application

    try:
        serve.run(application(model, options, metrics_folder), name=APP, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications[APP]
        said = [each.message for each in status.deployments.values()] + [status.message, str(error)]
        raise CheckpointError(f"{model} can't be served: {_reason(said)}") from None


def _wait_until_ready(address: str) -> None:
    """Wait until a request gets through: what listens hears of a replica a moment after Serve has it."""
    while True:
        with (
            closing(http.client.HTTPConnection(address, timeout=10)) as connection,
            suppress(OSError, HTTPException),
        ):
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(SECONDS_BETWEEN_CHECKS)


def _wait_for_haproxy(folder: Path, replicas: int) -> None:
    """Wait until HAProxy passes requests to all replicas: it hears of one after the other, half a second apart.

    Where it knows one of two and that one dies, there is nobody that answers, though the other is there.
    """
    while haproxy.replicas_in_use(str(cluster.haproxy_folder(folder))) < replicas:
        time.sleep(SECONDS_BETWEEN_CHECKS)


def _reason(messages: Sequence[str]) -> str:
    """Of what Serve says of a replica that didn't start, the error at the end of its traceback."""
    for message in messages:
        if found := _OF_REPLICA.findall(message):
            return found[-1]
    return next(filter(None, messages))


def free_address(host: str, port: int) -> str:
    """The address as HOST:PORT, in brackets where it is an IPv6. Raises InputError if nothing can listen there."""
    try:
        family, kind, protocol, _, found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found)
    except socket.gaierror as error:
        raise InputError(f"--host is {host!r}: {error.strerror}") from None
    except OSError as error:
        raise InputError(f"can't listen at {host}, port {port}: {error.strerror}") from None
    numeric = str(found[0])
    return f"[{numeric}]:{port}" if family == socket.AF_INET6 else f"{numeric}:{port}"


def _raise_signals() -> dict[signal.Signals, Any]:
    """Raise Stopped in the main thread for SIGTERM and SIGINT. Gives what was done for them before."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    return {number: signal.signal(number, stop) for number in SIGNALS}
