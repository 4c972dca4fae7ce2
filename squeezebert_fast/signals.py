"""Signals that end a command, in an order that leaves nothing behind: no half-written file, no process of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal raise SystemExit in the block, as Ctrl-C raises KeyboardInterrupt.

    The block ends with it whatever fails while it clears up, such as a pipe to a process that got the signal too.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise SystemExit(128 + number)

    with _handling(end, [each for each in ENDING if signal.getsignal(each) == signal.SIG_DFL]):
        try:
            yield
        except BaseException as error:
            if came:
                raise SystemExit(128 + came[0]) from error
            raise


@contextmanager
def put_off() -> Iterator[None]:
    """Put what ends a command off until the block's end, as Ray would leave processes behind in its midst.

    Handlers that the block sets, as Ray does, are gone after it.
    """
    came: list[int] = []
    taken = [each for each in (signal.SIGINT, *ENDING) if callable(signal.getsignal(each))]
    with _handling(lambda number, frame: came.append(number), taken):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], Any], numbers: list[signal.Signals]
) -> Iterator[None]:
    """Have a handler for some signals while the block runs; in the main thread, which alone may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
