"""What starts HAProxy for Ray Serve: its program, with a configuration that listens where this server may.

Serve writes a configuration whose statistics and metrics listen on all of a machine's addresses, at the same ports for
every server, and sends a line for each request to a system log. This is run in HAProxy's place: it changes those lines
and becomes HAProxy. It is a program of its own, without any import of this package.

Usage: haproxy.py PROGRAM FOLDER ADDRESS arguments of HAProxy
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys

PR_SET_PDEATHSIG = 1
SAID = {
    400: "this is no HTTP request, or its headers are too long",
    408: "the request did not come in time",
    502: "the replica died before it had answered",
    503: "no replica of the model is ready, try again",
    504: "the replica did not answer in time",
}
NOBODY = """
frontend nobody
    bind {folder}/nobody.sock
    monitor-uri /-/healthz
    http-request return {answer}
"""


def confined(config: str, folder: str, address: str) -> str:
    """The configuration with statistics and metrics at sockets in the folder, and the server itself at the address."""
    config = re.sub(r"(?m)^( *)bind \*?:\d+$", rf"\1bind {folder}/unused.sock", config, count=1)
    config = re.sub(r"(?m)^(listen stats\n *)bind .*$", rf"\1bind {folder}/stats.sock", config)
    config = re.sub(r"(?m)^(frontend http_frontend\n *)bind .*$", rf"\1bind {address}", config)
    # Serve gives a client an hour for a request's headers, so 4,096 that send none would keep everybody else out
    config = re.sub(r"(?m)^defaults$", "defaults\n    timeout http-request 10s", config)
    config = re.sub(r"(?m)^ *log (?!global).* local\d .*\n", "", config)
    # Where no replica answers, Serve turns to its proxy in Python, which holds requests while one starts and answers 404
    # while the last one ends. Serve waits for that server to be there, so another one stands in its place.
    config = re.sub(r"(?m)^( *server \S+) \S+ check backup$", rf"\1 unix@{folder}/nobody.sock check backup", config)
    config = re.sub(r"(?m)^ *errorfile 50\d .*\n", "", config)
    config = re.sub(r"(?m)^defaults$", "defaults\n" + "\n".join(_own_errors()), config)
    # before there is a replica, and after the last: not an address that doesn't exist, but one to be asked again
    config = re.sub(
        r"(?m)^( *)http-request return status 404 .*$", rf"\1http-request return {_answer(503)}", config
    )
    return config + NOBODY.format(folder=folder, answer=_answer(503))


def _own_errors() -> list[str]:
    return [f"    http-error {_answer(status)}" for status in SAID]


def _answer(status: int) -> str:
    """A status with its line in the form of the server's errors, in the words of HAProxy's configuration."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": SAID[status], "type": kind, "param": None, "code": None}
    again = " hdr Retry-After 1" if status in (502, 503) else ""
    return f"status {status} content-type application/json string '{json.dumps({'error': error})}'{again}"


def main(program: str, folder: str, address: str, *arguments: str) -> None:
    # with the actor that started it, also where that is killed: nobody else would end it
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    path = arguments[arguments.index("-f") + 1]
    with open(path, encoding="utf-8") as file:
        config = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(confined(config, folder, address))
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
