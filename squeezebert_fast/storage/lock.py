"""One process at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from squeezebert_fast.errors import CheckpointError, InputError
from squeezebert_fast.storage.files import is_half_written, make_directory, read_json_object, writing

LOCK = ".lock"
ATTEMPTS = 20
"""To make a folder and lock it, while others that made it for their lock remove it."""

logger = logging.getLogger("squeezebert_fast.storage")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep out of `folder`, which is made if need be, all others that ask for it, while the block runs.

    The lock is the operating system's, on the file LOCK, and is gone with the process even after SIGKILL. Where the
    file system has none, as some of networks, that is warned of and the block runs without. A folder that was made
    for the lock, and in which nothing was written, is gone after the block.

    Raises InputError, which names the process that has the folder; CheckpointError if it can't be made, StorageError
    if it can't be written.
    """
    made: list[Path] = []
    try:
        for left in reversed(range(ATTEMPTS)):
            made = [each for each in (folder, *folder.parents) if each in made or not each.exists()]
            try:
                make_directory(folder)
                with writing(folder):
                    descriptor = _locked(folder / LOCK)
                break
            except CheckpointError as error:
                gone = isinstance(error.__cause__, FileNotFoundError | FileExistsError)
                if not (gone and left):
                    raise
        try:
            yield
        finally:
            if descriptor is not None:
                with suppress(OSError):  # as in a folder that was moved away meanwhile
                    (folder / LOCK).unlink()  # while nobody else can have it
                os.close(descriptor)
    finally:
        with suppress(OSError):  # the first that isn't empty
            for each in made:
                each.rmdir()


def holds_files(folder: Path) -> bool:
    """Whether there is a file in a folder, but for what a process that was killed leaves: a lock, half a file."""
    return folder.is_dir() and any(
        path.name != LOCK and not is_half_written(path) for path in folder.iterdir()
    )


def _locked(path: Path) -> int | None:
    """The descriptor of the locked file, or None where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            if _is_still(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{path.parent} is in use by {_holder(path)}; wait for its end, or stop it"
            ) from None
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            logger.warning(
                "%s can't be locked (%s): nothing keeps a second process from writing there",
                path.parent,
                error.strerror,
            )
            return None
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Raises BlockingIOError where another process has the lock, and another OSError where there are none."""
    try:
        import fcntl
    except ImportError:
        raise OSError(0, "this system has no flock") from None
    # Not lockf, whose locks a process loses as soon as it closes any descriptor of the file.
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the file is the path's: its last owner may have removed it after it was opened here."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    with suppress(OSError):  # on a full disk: it is for a message alone
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(owner).encode())


def _holder(path: Path) -> str:
    try:
        owner = read_json_object(path)
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (OSError, KeyError):  # it has just begun, or its disk is full
        return "another process"
