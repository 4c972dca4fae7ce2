"""What starts HAProxy for Ray Serve: its program, with a configuration that listens where this server may.

Serve writes a configuration whose statistics and metrics listen on all of a machine's addresses, at the same ports for
every server, and sends a line for each request to a system log. This is run in HAProxy's place: it changes those lines
and becomes HAProxy. It is a program of its own, without any import of this package.

Usage: haproxy.py PROGRAM FOLDER ADDRESS arguments of HAProxy
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import re
import signal
import socket
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
SECONDS_FOR_STATISTICS = 10
SAID = {
    502: "the replica died before it had answered",
    503: "no replica of the model is ready, try again",
    504: "the replica did not answer in time",
}
NOBODY = """
frontend nobody
    bind {folder}/nobody.sock
    monitor-uri /-/healthz
    {unready}
"""


def confined(config: str, folder: str, address: str) -> str:
    """The configuration with statistics and metrics at sockets in the folder, and the server itself at the address."""
    config = re.sub(r"(?m)^( *)bind \*?:\d+$", rf"\1bind {folder}/unused.sock", config, count=1)
    config = re.sub(r"(?m)^(listen stats\n *)bind .*$", rf"\1bind {_statistics(folder)}", config)
    config = re.sub(r"(?m)^(frontend http_frontend\n *)bind .*$", rf"\1bind {address}", config)
    # Serve gives a client an hour for a request's headers, so 4,096 that send none would keep everybody else out
    config = re.sub(r"(?m)^defaults$", "defaults\n    timeout http-request 10s", config)
    # A request that has come as a whole can be asked of another replica, where one dies with it
    config = re.sub(r"(?m)^defaults$", "defaults\n    option http-buffer-request", config)
    config = re.sub(r"(?m)^ *log (?!global).* local\d .*\n", "", config)
    # Where no replica answers, Serve turns to its proxy in Python, which keeps requests while one starts and answers
    # 404 while the last one ends. Serve waits for that server to be there, so another one stands in its place.
    config = re.sub(
        r"(?m)^( *server \S+) \S+ check backup$", rf"\1 unix@{folder}/nobody.sock check backup", config
    )
    config = re.sub(r"(?m)^ *errorfile 50\d .*\n", "", config)
    config = re.sub(r"(?m)^defaults$", "\n".join(["defaults", *map(_own_answer, SAID)]), config)
    # before there is a replica, and after the last: not an address that doesn't exist, but one to be asked again
    unready = "http-request return status 503 default-errorfiles"
    config = re.sub(r"(?m)^( *)http-request return status 404 .*$", rf"\1{unready}", config)
    return config + NOBODY.format(folder=folder, unready=unready)


def _own_answer(status: int) -> str:
    """A line that says what HAProxy itself answers with this status, in the form of the server's other errors.

    What it can't take for HTTP at all it answers 400 in words of its own, which no setting changes.
    """
    said = json.dumps(
        {"error": {"message": SAID[status], "type": "server_error", "param": None, "code": None}}
    )
    return f"    http-error status {status} content-type application/json string '{said}' hdr Retry-After 1"


def _statistics(folder: str) -> str:
    return f"{folder}/stats.sock"


def replicas_in_use(folder: str) -> int:
    """How many replicas an HAProxy whose `folder` this is passes requests to, by its statistics. 0 where none runs."""
    said = b""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS_FOR_STATISTICS)
        client.connect(_statistics(folder))
        client.sendall(b"GET /stats;csv HTTP/1.0\r\n\r\n")
        while part := client.recv(65536):
            said += part
    rows = csv.DictReader(said.decode().partition("# ")[2].splitlines())
    return sum(row["type"] == "2" and row["act"] == "1" and row["status"].startswith("UP") for row in rows)


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
