"""Candidates that take turns, each in a process of its own, of which all but one are stopped.

    round 1:  A: a a A A A A    B: b b B B B B    C: c c C C C C    between
    round 2:  A: a a A A A A    ...

A capital is a call that counts, a small letter one that is dropped: the first calls of a turn find caches and clock as
the candidate before left them. In one process an engine's idle threads spin into the next one's turn and take its
cores: a float32 forward at 1x128 that takes 37 ms alone took 47 ms so. Here those threads are stopped (SIGSTOP), and
the next turn waits until the kernel says that every one of them is. Windows can't stop a process: there they only take
turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress, track

from squeezebert_fast.benchmark.load import Usage, usage
from squeezebert_fast.benchmark.timing import Timing
from squeezebert_fast.benchmark.workers import CandidateFailed, Worker, ctrl_c_held

T = TypeVar("T")

DROPPED, KEPT = 2, 4
"""Calls of a turn that are dropped, and that count."""

TURN = ((),) * (DROPPED + KEPT)
"""A turn of calls without arguments."""

BUILD_SECONDS, ANSWER_SECONDS = 900.0, 600.0
"""How long a candidate may take to be built (torch.compile takes minutes), and for a turn."""

END_SECONDS = 10.0
"""How long candidates may take to end by themselves, all together, before they are killed."""


class Runner(Protocol):
    """What a candidate's process makes of its recipe, and times."""

    def prepare(self) -> object:
        """What happens before each call, untimed."""

    def call(self, *arguments: Any) -> object:
        """One call; its work is done when it returns."""


def timed(runner: Runner, turn: Sequence[tuple[Any, ...]]) -> list[float]:
    """Seconds of the calls that count. turn: the arguments of each call."""
    seconds = []
    for arguments in turn:
        runner.prepare()
        start = time.perf_counter()
        runner.call(*arguments)
        seconds.append(time.perf_counter() - start)
    return seconds[DROPPED:]


def turns_of(repeats: int, *arguments: Any) -> list[Sequence[tuple[Any, ...]]]:
    """Turns of calls with these arguments, of which `repeats` count in all."""
    counting = [min(KEPT, repeats - done) for done in range(0, repeats, KEPT)]
    return [(arguments,) * (DROPPED + count) for count in counting]


class Turns:
    """The candidates, by name, and their processes, which end with the `with` statement.

    threads: of each candidate. console: shows how far a measurement is. tell: is called with a line for each candidate
    that fails; by default the console shows it.
    """

    def __init__(
        self,
        threads: int,
        console: Console,
        *,
        tell: Callable[[str], object] | None = None,
        build_seconds: float = BUILD_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.failed: dict[str, str] = {}
        """By name, why a candidate isn't measured."""
        self._threads, self._console = threads, console
        self._tell = tell or partial(console.print, markup=False)
        self._build_seconds, self._answer_seconds = build_seconds, answer_seconds
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Turns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers = [worker for name, worker in self._workers.items() if name in self]
        try:
            if kind is None:
                for worker in workers:
                    worker.let_go()
                limit = time.monotonic() + END_SECONDS
                for worker in workers:
                    worker.join(max(0.0, limit - time.monotonic()))
        finally:
            with ctrl_c_held():
                # a second one would leave stopped processes, for which Python's own end waits
                for worker in workers:
                    worker.end()

    def __contains__(self, name: str) -> bool:
        return name in self._workers and name not in self.failed

    def start(self, name: str, build: Callable[[], object]) -> bool:
        """Have `build` called in a new process; whether that made something. build: can be pickled."""
        worker = self._workers[name] = Worker(build, self._threads)
        try:
            worker.start(self._build_seconds)
        except CandidateFailed as failure:
            self.leave_out(name, str(failure))
        return name in self

    def starting(self, candidates: Sequence[T], what: str) -> Iterable[T]:
        """The candidates, and meanwhile on the console how many are started."""
        silent = not self._console.is_terminal
        return track(candidates, f"starting {what}", console=self._console, transient=True, disable=silent)

    def leave_out(self, name: str, reason: str) -> None:
        """Measure a candidate no more, and say why."""
        self.failed[name] = reason
        if name in self._workers:
            self._workers[name].end()
        self._tell(f"without {name}: {reason}")

    def usage(self) -> Usage | None:
        """CPU seconds until now, those of the candidates among our own; None on systems that don't tell."""
        return usage(worker.pid for name, worker in self._workers.items() if name in self)

    def ask(self, name: str, question: Callable[..., Any], *arguments: Any) -> Any:
        """`question(made, *arguments)` in the process of `name`, where `made` is what was built there.

        question: a function of a module, or a method as its class has it: `Engine.output`.
        Raises CandidateFailed, once the candidate is left out, if that raises, takes too long or ends the process.
        """
        if name in self.failed:
            raise CandidateFailed(self.failed[name])
        try:
            return self._workers[name].ask(question, arguments, self._answer_seconds)
        except CandidateFailed as failure:
            self.leave_out(name, str(failure))
            raise

    def measure(
        self,
        names: Sequence[str],
        turns: Sequence[Sequence[tuple[Any, ...]]],
        between: Callable[[], object] | None = None,
        title: str = "",
    ) -> list[Timing]:
        """For each turn, let all candidates take it one after the other; the seconds of all calls that count.

        turns: the arguments of each call. between: called after each round. title: of the progress bar. A candidate
        that fails is left out.
        """
        seconds: dict[str, list[float]] = {name: [] for name in names if name in self}
        # No thread of its own that refreshes it: it would take a core from whoever has a turn.
        with Progress(
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            shown = progress.add_task("", total=len(turns) * len(seconds))
            for turn in turns:
                for name in list(seconds):
                    progress.update(shown, description=f"{title} {name}".strip(), refresh=True)
                    try:
                        seconds[name] += self.ask(name, timed, turn)
                    except CandidateFailed:
                        del seconds[name]
                    progress.advance(shown)
                if between is not None:
                    between()
        return [Timing(name, tuple(each)) for name, each in seconds.items()]
