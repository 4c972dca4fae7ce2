"""A process that builds one thing and answers questions about it; stopped whenever it is not asked.

The process builds what it measures: what goes through the pipe to it is a recipe, not a model. Where the system can't
stop a process (Windows), those that aren't asked only wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from squeezebert_fast.errors import SqueezeBertFastError
from squeezebert_fast.signals import put_off

CAN_STOP = hasattr(signal, "SIGSTOP")
CAN_HOLD = hasattr(signal, "pthread_sigmask")

_PR_SET_PDEATHSIG = 1


class CandidateFailed(Exception):
    """A candidate can't be measured, or not any more, and why."""


class Worker:
    """A process that builds one thing and answers questions about it; stopped whenever it is not asked."""

    def __init__(self, build: Callable[[], object], threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads that aren't there
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._theirs, build, threads), daemon=True)

    @property
    def pid(self) -> int:
        """Of the process, once it is started."""
        assert self._process.pid is not None
        return self._process.pid

    def start(self, seconds: float) -> None:
        if CAN_STOP:
            resource_tracker.ensure_running()  # starting it, as the first process does, would let Ctrl-C through
        with ctrl_c_held():  # from the process until it ignores it, and its imports take seconds before that
            self._process.start()
        self._theirs.close()  # so that the pipe ends when the process does
        self._answer(seconds)

    def ask(self, question: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
        self._go_on()
        try:
            self._connection.send((question, arguments))
        except ConnectionError:
            raise CandidateFailed(self._how_it_ended()) from None
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        """What the process says; it is stopped then."""
        if not wait([self._connection], seconds):
            raise CandidateFailed(f"no answer within {seconds:g} s")
        try:
            failure, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise CandidateFailed(self._how_it_ended()) from None
        if failure is not None:
            raise CandidateFailed(failure)
        self._stop()
        return value

    def _stop(self) -> None:
        """Stop every thread, and wait until they are."""
        if not CAN_STOP:
            return
        self._signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            # macOS has none before Python 3.13: there it is stopped some microseconds later
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _go_on(self) -> None:
        if CAN_STOP:
            self._signal(signal.SIGCONT)

    def _kill(self) -> None:
        if CAN_STOP:
            self._signal(signal.SIGKILL)
        self._process.kill()  # also where it has no group yet

    def _signal(self, number: signal.Signals) -> None:
        """To the process and those that it started; none may be there any more."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _how_it_ended(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return "its process closed the pipe"
        return f"its process ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with {code}"

    def let_go(self) -> None:
        """Continue it, with nothing more to do."""
        self._go_on()
        self._connection.close()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, or the time is over."""
        self._process.join(seconds)

    def end(self) -> None:
        """Kill it, whatever it does, stopped or not."""
        if self._process.pid is not None and self._process.exitcode is None:
            self._kill()
            self._process.join()
        self._connection.close()


def _serve(connection: Connection, build: Callable[[], object], threads: int) -> None:
    """Build, say so, and answer until the pipe ends."""
    # A group of its own: neither Ctrl-C nor what continues a job after Ctrl-Z gets here. Whoever started this ends it.
    if CAN_STOP:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also one that came before, and is held
    if CAN_HOLD:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with_parent()
    torch.set_num_threads(threads)
    quiet()
    try:
        made = build()
    except Exception as error:
        connection.send((_one_line(error), None))
        return
    connection.send((None, None))
    while True:
        try:
            question, arguments = connection.recv()
        except EOFError:
            return
        try:
            failure, answer = None, question(made, *arguments)
        except Exception as error:
            failure, answer = _one_line(error), None
        connection.send((failure, answer))


def _one_line(error: Exception) -> str:
    """Why something failed: of an error that is one line for users anyway, that line."""
    first = (str(error).strip().splitlines() or [""])[0]
    said = isinstance(error, CandidateFailed | SqueezeBertFastError)
    return first if said else f"{type(error).__name__}: {first}"


@contextlib.contextmanager
def ctrl_c_held() -> Iterator[None]:
    """A Ctrl-C meanwhile counts at the block's end; a process that is started meanwhile gets it once it unblocks it.

    So does another signal that ends the command in order: `timeout` sends SIGTERM twice, a moment apart.
    """
    if threading.current_thread() is not threading.main_thread():
        # only that one may say how signals are handled
        yield
        return
    held = []
    # Not the mask alone: another thread of this process would take the signal. But it is what a new process inherits.
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if CAN_HOLD else set()
    try:
        with put_off():
            yield
    finally:
        if CAN_HOLD:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


def _end_with_parent() -> None:
    """A stopped process doesn't see its pipe end: have the kernel end it if the parent is killed, or was already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if CAN_STOP and parent is not None and os.getppid() != parent.pid:
        sys.exit(1)


def quiet() -> None:
    """No talk from exporters and quantisers."""
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names every torchvision operator it lacks
    warnings.simplefilter("ignore")
