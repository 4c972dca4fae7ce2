"""Stopping: between two steps, when the parameters are whole, and before the first one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt while the block runs, so that what it has begun is cleared away."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.made = False

    @classmethod
    @contextmanager
    def from_signals(cls, *, impatient: bool) -> Iterator[StopRequest]:
        """Take Ctrl-C (SIGINT) and SIGTERM for a request while the block runs.

        impatient: a second Ctrl-C raises KeyboardInterrupt at once. Not for torchrun's processes, which get
        the first one twice: from the terminal and from torchrun.
        """
        request = cls()

        def handle(number: int, frame: FrameType | None) -> None:
            if request.made and impatient and number == signal.SIGINT:
                raise KeyboardInterrupt
            request.made = True

        if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
            yield request
            return
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield request
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
