"""What starts HAProxy for Ray Serve: its program, with a configuration that listens where this server may.

Serve writes a configuration whose statistics and metrics listen on all of a machine's addresses, at the same ports for
every server, and sends a line for each request to a system log. This is run in HAProxy's place: it changes those lines
and becomes HAProxy. It is a program of its own, without any import of this package.

Usage: haproxy.py PROGRAM FOLDER ADDRESS arguments of HAProxy
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys

PR_SET_PDEATHSIG = 1


def confined(config: str, folder: str, address: str) -> str:
    """The configuration with statistics and metrics at sockets in the folder, and the server itself at the address."""
    config = re.sub(r"(?m)^( *)bind \*?:\d+$", rf"\1bind {folder}/unused.sock", config, count=1)
    config = re.sub(r"(?m)^(listen stats\n *)bind .*$", rf"\1bind {folder}/stats.sock", config)
    config = re.sub(r"(?m)^(frontend http_frontend\n *)bind .*$", rf"\1bind {address}", config)
    # Serve gives a client an hour for a request's headers, so 4,096 that send none would keep everybody else out
    config = re.sub(r"(?m)^defaults$", "defaults\n    timeout http-request 10s", config)
    config = re.sub(r"(?m)^ *log (?!global).* local\d .*\n", "", config)
    # before a replica is there, and after the last: not an address that doesn't exist, but one to be asked again
    return config.replace(
        "http-request return status 404 content-type text/plain",
        "http-request return status 503 hdr Retry-After 1 content-type text/plain",
    )


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
