"""How `benchmarks.gpu_check` runs its parts: in child processes, each result a line on the disk as soon as it is there.

A part is a list of cases. A child process takes some of them, one after the other, and appends a line of JSON to
results.jsonl after each; nothing else carries a result. So a case that raises costs itself, one that hangs, dies or
breaks the GPU's context costs itself too (the next child goes on after it), a part that takes too long is stopped at
its deadline, and a kill of everything leaves all that was found until then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""A line of results.jsonl: `part`, `case`, and what was found, or `error`, or `skipped`: why it wasn't tried."""

HANDED_OVER = 3
"""The status of a child that ends after a case of its own that broke the GPU's context: another takes the rest."""

GRACE = 2.0
"""Seconds that a stopped process has to write what it knows, before it is killed."""


class Results:
    """results.jsonl: many processes append to it, each record in one write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset, self._records = 0, list[Record]()

    def add(self, part: str, case: str, found: Record) -> None:
        record = {"part": part, "case": case, "at": round(time.time(), 2), **found}
        line = json.dumps(record) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def read(self) -> list[Record]:
        """All whole lines: whoever wrote the last one may have been killed."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                whole, newline, _ = stream.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):
                    self._records.append(json.loads(line))
        return self._records

    def done(self, part: str) -> set[str]:
        return {record["case"] for record in self.read() if record["part"] == part}


@dataclass(frozen=True)
class Part:
    """Some of the work, with the time that it may take."""

    name: str
    seconds: float
    """For all of its cases."""
    cases: Callable[[], Sequence[str]]
    """The most important first. May import what is slow to import."""
    about: str
    case_seconds: float = 40.0
    """The most for one case, the start of a process included."""
    per_child: int = 10
    at_once: int = 1
    """Children at the same time: one, where something is timed."""
    beside: bool = False
    """Runs in the background: the next part starts at once."""
    after: str | None = None
    """A part in the background that must have ended before this one starts."""
    command: Callable[[list[str], Sequence[str]], list[str]] = lambda own, cases: own
    """What to run in place of the child's own command for these cases: a tool around it, or something else."""
    environment: dict[str, str | None] = field(default_factory=dict)
    """What is set otherwise than here; None: not at all."""
    read: Callable[[str, Sequence[str], int | None], Iterable[tuple[str, Record]]] | None = None
    """(case, record) of what a tool printed, given all of its output, the cases and its status (None: stopped)."""
    obstacle: Callable[[], str | None] = lambda: None
    """Why it can't be run here, or None."""
    interpreted: bool = False
    """Whether a dry run does it in Triton's interpreter."""
    dry_cases: int = 2
    """How many of them a dry run does."""


Start = Callable[[Part, Sequence[str], float, Path], "subprocess.Popen[Any]"]
"""Starts a child: the part, its cases, when to stop (as of `time.time`), and the file for what it prints."""


@dataclass
class Child:
    """A child process at work."""

    process: subprocess.Popen[Any]
    given: Sequence[str]
    cases: list[str]
    """Of those given, what is still to do."""
    output: Path
    since: float
    """When it began with the case that it is at."""


def stop(*processes: subprocess.Popen[Any]) -> None:
    """End them and what they started, and go on even where one doesn't end: the driver may hold it."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 5 * GRACE)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        end = time.monotonic() + patience
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))


class PartRun:
    """A part in the course of being run: `step` is called now and then until it says that it is through."""

    def __init__(
        self, part: Part, cases: Sequence[str], until: float, results: Results, start: Start, folder: Path
    ) -> None:
        self.part, self.until, self.results, self.folder = part, until, results, folder
        self._start = start
        self._waiting = [list(cases[at : at + part.per_child]) for at in range(0, len(cases), part.per_child)]
        self._children: list[Child] = []
        self._started = 0

    def step(self) -> bool:
        """Start, watch and end children; whether there is nothing more to do."""
        now = time.time()
        while self._waiting and len(self._children) < self.part.at_once and now < self.until:
            self._begin(self._waiting.pop(0))
        for child in list(self._children):
            self._watch(child)
        if now >= self.until:
            self._give_up()
        return not self._waiting and not self._children

    def stop(self) -> None:
        """End its children; what isn't done stays so."""
        stop(*(child.process for child in self._children))
        for child in self._children:
            self._keep_output(child)
        self._children.clear()

    def _begin(self, cases: list[str]) -> None:
        self._started += 1
        output = self.folder / f"{self.part.name}-{self._started}.log"
        try:
            process = self._start(self.part, cases, self.until, output)
        except OSError as error:
            for case in cases:
                self.results.add(self.part.name, case, {"error": f"could not be started: {error}"})
            return
        self._children.append(Child(process, cases, list(cases), output, time.time()))

    def _watch(self, child: Child) -> None:
        ended = child.process.poll()  # before the results are read: it writes no more
        done = self.results.done(self.part.name)
        left = [case for case in child.cases if case not in done]
        if len(left) < len(child.cases):
            child.cases, child.since = left, time.time()
        if ended is not None:
            self._end(
                child, f"the process {how(ended)}" if ended else "the process ended without a result", ended
            )
        elif time.time() - child.since > self.part.case_seconds:
            stop(child.process)
            self._end(child, f"stopped: it took longer than {self.part.case_seconds:g} s", None)

    def _end(self, child: Child, why: str, status: int | None) -> None:
        """The child is no more: the case that it was at has failed, and another takes the rest."""
        self._children.remove(child)
        handed_over = status == HANDED_OVER and len(child.cases) < len(child.given)
        text = self._keep_output(child)
        if self.part.read is not None:
            for case, record in self.part.read(text, child.given, status):
                self.results.add(self.part.name, case, record)
                child.cases = [left for left in child.cases if left != case]
        if child.cases and not handed_over and time.time() < self.until:
            failed, *rest = child.cases
            self.results.add(self.part.name, failed, {"error": why})
            if rest:
                self._waiting.insert(0, rest)
        elif child.cases:
            self._waiting.insert(0, child.cases)

    def _give_up(self) -> None:
        stop(*(child.process for child in self._children))
        done = self.results.done(self.part.name)
        for child in list(self._children):
            child.cases = [case for case in child.cases if case not in done]
            at = child.cases[:1]
            self._end(child, "", None)
            for case in at if self.part.read is None else ():
                self.results.add(self.part.name, case, {"skipped": "stopped: the part's time was up"})
        done = self.results.done(self.part.name)
        for case in (case for cases in self._waiting for case in cases if case not in done):
            self.results.add(self.part.name, case, {"skipped": "no time was left"})
        self._waiting.clear()

    def _keep_output(self, child: Child) -> str:
        """What it printed goes to the common log."""
        text = child.output.read_text(encoding="utf-8", errors="replace") if child.output.exists() else ""
        with (self.results.path.parent / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"==== {child.output.stem}\n{text[-LOGGED:]}\n")
        child.output.unlink(missing_ok=True)
        return text


LOGGED = 200_000
"""Of a child's output, so many characters are kept: what comes back from a lent machine is limited."""


def how(status: int) -> str:
    """A process's end in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def run_parts(
    parts: Sequence[Part],
    until: float,
    results: Results,
    start: Start,
    folder: Path,
    *,
    dry: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """All parts in their order, each until its time or all time is up. What is in the background ends at the latest
    with them.
    """
    beside: dict[str, PartRun] = {}

    def cases_of(part: Part) -> list[str]:
        try:
            if not dry and (obstacle := part.obstacle()):
                results.add(part.name, "all", {"skipped": obstacle})
                return []
            return list(part.cases())
        except Exception as error:  # one part's import must not cost the others
            results.add(part.name, "all", {"error": f"{type(error).__name__}: {error}"})
            return []

    def begin(part: Part, cases: list[str]) -> PartRun:
        end = min(time.time() + part.seconds, until)
        say(f"{part.name}: {len(cases)} cases, at most {max(end - time.time(), 0):.0f} s")
        return PartRun(part, cases[: part.dry_cases] if dry else cases, end, results, start, folder)

    def steps(run: PartRun | None) -> bool:
        for name in [name for name, other in beside.items() if other.step()]:
            say(f"{name}: {outcome(results, beside.pop(name).part)}")
        return run is None or run.step()

    try:
        for part in parts:
            cases = cases_of(part)  # which may import for seconds: before it waits for another
            while part.after in beside and time.time() < until:
                steps(None)
                time.sleep(PAUSE)
            run = begin(part, cases)
            if part.beside:
                beside[part.name] = run
                run.step()
                continue
            try:
                while not steps(run):
                    time.sleep(PAUSE)
            finally:
                run.stop()
            say(f"{part.name}: {outcome(results, part)}")
        while beside:
            steps(None)
            time.sleep(PAUSE)
    finally:
        for run in beside.values():
            run.stop()


PAUSE = 0.05


def outcome(results: Results, part: Part) -> str:
    """How a part went, in words."""
    records = [record for record in results.read() if record["part"] == part.name]
    counts = {kind: len({r["case"] for r in records if kind in r}) for kind in ("error", "skipped")}
    done = len({r["case"] for r in records} - {r["case"] for r in records if "error" in r or "skipped" in r})
    said = [f"{done} done", f"{counts['error']} failed" * bool(counts["error"])]
    return ", ".join(filter(None, [*said, f"{counts['skipped']} left out" * bool(counts["skipped"])]))
