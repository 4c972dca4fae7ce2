"""Whether there is a hub to ask, found out in two seconds.

huggingface_hub asks six times for a file that it doesn't have, with pauses of 23 seconds in all, and then says that it
couldn't ask. So it is asked for anything first, once in a process, and its answer may be whatever it likes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants
from huggingface_hub.utils import get_session

SECONDS_TO_CONNECT = 2.0
"""For the name and the connection alone: a slow network takes a second, a missing one may take for ever."""

_reached: set[str] = set()


def why_out_of_reach() -> str | None:
    """Why the hub can't be asked, in one line; None if it answers, or did so before in this process.

    Its answer is waited for as long as HF_HUB_ETAG_TIMEOUT says, if there is a connection.
    """
    endpoint, patience = constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT
    if endpoint in _reached:
        return None
    connected = threading.Event()
    answer = _begun(lambda: get_session().head(endpoint, timeout=patience))
    _begun(lambda: _connect(endpoint, connected))
    wait([answer], SECONDS_TO_CONNECT)
    if connected.is_set():
        wait([answer], patience)
    if not answer.done():
        return f"{endpoint} doesn't answer; without a network, HF_HUB_OFFLINE=1 says so at once"
    if (error := answer.exception()) is not None:
        return one_line(error)
    _reached.add(endpoint)
    return None


def one_line(error: BaseException) -> str:
    """The error's kind and message, without line breaks."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _begun(work: Callable[[], Any]) -> Future[Any]:
    """The result of `work`, done by a thread that nobody waits for, not even the interpreter's end."""
    future: Future[Any] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


def _connect(endpoint: str, connected: threading.Event) -> None:
    """Set `connected` once one of the addresses of the endpoint, or of its proxy, takes a connection."""
    url = urlsplit(endpoint)
    if not proxy_bypass(url.hostname or ""):
        proxies = getproxies()
        url = urlsplit(proxies.get(url.scheme) or proxies.get("all") or endpoint)
    port = url.port or (80 if url.scheme == "http" else 443)

    def attempt(address: Any) -> None:
        with socket.create_connection(address[:2], SECONDS_TO_CONNECT):
            connected.set()

    for *_, address in socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM):
        _begun(lambda address=address: attempt(address))  # type: ignore[misc]
