"""Candidates of benchmarks/ take turns in processes of their own. Nothing here depends on how long anything takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from io import StringIO
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.agreement import WrongEngine
from benchmarks.peers import EAGER, ENGINES, EngineRunner, start_engines
from benchmarks.subjects import bert_base
from squeezebert_fast import ArgumentError
from squeezebert_fast.benchmark import TURN, CandidateFailed, Turns, workers
from squeezebert_fast.benchmark.turns import DROPPED, turns_of
from tests.fake_turns import FakeTurns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells whether a process is stopped")


def quiet_console() -> Console:
    return Console(file=StringIO(), width=200)


def state(pid: int) -> str | None:
    """The letter that /proc gives a process: R runs, S sleeps, T is stopped, Z has ended. None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


class Witness:
    """A runner that writes down its name at each call, and what state the processes of the others are in."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        (folder / f"{name}.pid").write_text(str(os.getpid()))

    def prepare(self) -> None:
        self._write(f"({self._name})")

    def call(self, *arguments: object) -> None:
        pids = [int(path.read_text()) for path in self._folder.glob("*.pid")]
        states = {state(pid) for pid in pids if pid != os.getpid()}
        self._write(self._name + "".join(map(str, arguments)) + ("" if states <= {"T"} else "!"))

    def _write(self, text: str) -> None:
        with (self._folder / "log").open("a") as log:
            log.write(text + " ")

    def threads(self) -> int:
        return torch.get_num_threads()


class Doomed:
    """A runner that comes to a bad end in its second turn."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end, self._calls = end, 0

    def prepare(self) -> None:
        pass

    def call(self) -> None:
        self._calls += 1
        if self._calls > len(TURN):
            self._end()


def fail(message: str) -> None:
    raise ValueError(message)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(1000)


def test_candidates_take_turns_alone_and_the_first_two_calls_of_each_are_dropped(tmp_path: Path) -> None:
    with Turns(3, quiet_console()) as turns:
        for name in "ab":
            assert turns.start(name, partial(Witness, name, tmp_path))
        assert turns.ask("a", Witness.threads) == 3
        pids = [int((tmp_path / f"{name}.pid").read_text()) for name in "ab"]
        assert [state(pid) for pid in pids] == ["T", "T"]
        turn = [(number,) for number in range(3)]

        def between() -> None:
            with (tmp_path / "log").open("a") as log:
                log.write("| ")

        timings = turns.measure("ab", [turn, [(7,)] * 4], between=between)
    assert [(timing.name, len(timing.seconds)) for timing in timings] == [("a", 1 + 2), ("b", 1 + 2)]
    first, second = ([f"({name}) {name}{number}" for number in range(3)] for name in "ab")
    rest = [f"({name}) {name}7" for name in "aaaabbbb"]
    assert (tmp_path / "log").read_text().split() == " ".join([*first, *second, "|", *rest, "|"]).split()
    assert [state(pid) for pid in pids] == [None, None]


@pytest.mark.slow
def test_one_that_crashes_is_told_of_and_the_others_keep_their_figures(tmp_path: Path) -> None:
    shown = quiet_console()
    with Turns(1, shown) as turns:
        assert turns.start("sound", partial(Witness, "sound", tmp_path))
        assert turns.start("killed", partial(Doomed, kill_itself))
        assert turns.start("raising", partial(Doomed, partial(fail, "one line\nand more")))
        assert not turns.start("unbuilt", partial(fail, "no such engine"))
        assert not turns.start("exiting", partial(os._exit, 3))
        timings = turns.measure(["killed", "sound", "raising", "unbuilt"], [TURN] * 3)
        with pytest.raises(CandidateFailed, match="SIGKILL"):
            turns.ask("killed", Doomed.prepare)
    assert [(timing.name, len(timing.seconds)) for timing in timings] == [("sound", 3 * 4)]
    assert turns.failed == {
        "unbuilt": "ValueError: no such engine",
        "exiting": "it exited with 3",
        "killed": "its process ended by SIGKILL",
        "raising": "ValueError: one line",
    }
    told = shown.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"without {name}: {reason}" in told for name, reason in turns.failed.items())


def test_one_that_hangs_is_ended() -> None:
    with Turns(1, quiet_console(), build_seconds=0.2) as turns:
        assert not turns.start("start", hang)
        assert turns.failed == {"start": "no answer within 0.2 s"}
    with Turns(1, quiet_console(), answer_seconds=0.2) as turns:
        assert turns.start("turn", partial(Doomed, hang))
        pid = turns.ask("turn", pid_of)
        assert turns.measure(["turn"], [TURN * 2]) == []
        assert turns.failed == {"turn": "no answer within 0.2 s"}
        assert state(pid) is None


def pid_of(_: object) -> int:
    return os.getpid()


@pytest.mark.parametrize(("repeats", "counting"), [(1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_turns_make_as_many_calls_that_count_as_are_wanted(repeats: int, counting: list[int]) -> None:
    turns = turns_of(repeats, 2, 3)
    assert [len(turn) - DROPPED for turn in turns] == counting
    assert {call for turn in turns for call in turn} == {(2, 3)}


@pytest.mark.slow
def test_where_no_process_can_be_stopped_they_take_turns_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CAN_STOP", False)
    with Turns(1, quiet_console()) as turns:
        for name in "ab":
            assert turns.start(name, partial(Witness, name, tmp_path))
        pids = [int((tmp_path / f"{name}.pid").read_text()) for name in "ab"]
        assert not turns.start("unbuilt", partial(fail, "no such engine"))
        timings = turns.measure("ab", turns_of(5))
        assert "T" not in [state(pid) for pid in pids]
    assert [len(timing.seconds) for timing in timings] == [5, 5]
    calls = [word.rstrip("!") for word in (tmp_path / "log").read_text().split() if word[0] != "("]
    assert "".join(calls) == "aaaaaabbbbbbaaabbb"
    assert [state(pid) for pid in pids] == [None, None]


def test_a_terminal_sees_whose_turn_it_is(tmp_path: Path) -> None:
    shown = Console(file=StringIO(), width=100, force_terminal=True)
    with Turns(1, shown) as turns:
        for name in turns.starting("ab", "candidates"):
            turns.start(name, partial(Witness, name, tmp_path))
        turns.measure("ab", turns_of(1), title="1x8")
    drawn = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "starting candidates" in drawn
    assert drawn.index("1x8 a") < drawn.index("1x8 b")
    assert "100%" in drawn


def test_who_wants_to_tell_of_failures_is_given_the_line() -> None:
    shown, told = quiet_console(), list[str]()
    with Turns(1, shown, tell=told.append) as turns:
        assert not turns.start("refused", partial(refuse, "precision is 'int4'"))
    assert told == ["without refused: precision is 'int4'"]
    assert shown.file.getvalue() == ""  # type: ignore[attr-defined]


def refuse(message: str) -> None:
    raise ArgumentError(message)


def test_the_candidates_work_is_our_own() -> None:
    with Turns(1, quiet_console()) as turns:
        assert turns.start("busy", partial(Doomed, hang))
        before = turns.usage()
        turns.ask("busy", compute)
        after = turns.usage()
    assert before is not None
    assert after is not None
    assert after.own - before.own >= COMPUTED - 0.05  # the system counts in ticks
    assert after.busy >= before.busy
    assert after.total > before.total
    ended = turns.usage()  # now it is a child that has ended
    assert ended is not None
    assert ended.own >= after.own


COMPUTED = 0.3


def compute(_: object) -> None:
    """Take so many CPU seconds, however long that takes."""
    start = time.process_time()
    while time.process_time() < start + COMPUTED:
        pass


def test_an_interrupted_measurement_leaves_no_process() -> None:
    pids = []

    def interrupted(turns: Turns) -> None:
        pids.append(turns.ask("idle", pid_of))
        raise KeyboardInterrupt

    def measure() -> None:
        with Turns(1, quiet_console()) as turns:
            turns.start("idle", partial(Doomed, hang))
            turns.measure(["idle"], [TURN], between=partial(interrupted, turns))

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert state(pids[0]) is None


def test_ctrl_c_is_the_commands_alone_and_its_death_ends_what_is_stopped() -> None:
    script = (
        "import time, sys; from functools import partial; from squeezebert_fast.benchmark import Turns\n"
        "from tests.test_benchmark_turns import *\n"
        "with Turns(1, quiet_console()) as turns:\n"
        "    turns.start('idle', partial(Doomed, hang))\n"
        "    print(turns.ask('idle', pid_of), flush=True)\n"
        "    time.sleep(1000)\n"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        assert os.getpgid(pid) != os.getpgid(command.pid)
        assert state(pid) == "T"
        command.kill()
    assert no_process_is_left(pid)


def no_process_is_left(pid: int) -> bool:
    for _ in range(600):
        if state(pid) in (None, "Z"):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_while_a_process_starts_is_the_commands_and_not_lost(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both get it from a terminal: the new process is of the command's group until it has one of its own."""
    pids: list[int] = []
    original = SpawnProcess.start

    def start(self: SpawnProcess) -> None:
        if when == "before":
            os.kill(os.getpid(), signal.SIGINT)
        original(self)
        assert self.pid is not None
        pids.append(self.pid)
        os.kill(self.pid, signal.SIGINT)
        if when == "after":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(KeyboardInterrupt), Turns(1, quiet_console()) as turns:
        turns.start("interrupted", partial(Doomed, hang))
    assert no_process_is_left(pids[0])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def interrupts(_: object) -> tuple[bool, bool]:
    """Whether Ctrl-C is ignored here, and whether it is held back."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return ignored, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_process_that_gets_ctrl_c_while_it_starts_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SpawnProcess.start

    def start(self: SpawnProcess) -> None:
        original(self)
        assert self.pid is not None
        os.kill(self.pid, signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", start)
    with Turns(1, quiet_console()) as turns:
        assert turns.start("idle", partial(Doomed, hang))
        assert turns.ask("idle", interrupts) == (True, False)


def test_a_process_whose_command_is_killed_while_it_starts_builds_nothing(tmp_path: Path) -> None:
    """The kernel ends it with its parent from the moment on that it asks for that, which here is too late."""
    script = (
        "import os, sys; from functools import partial; from pathlib import Path\n"
        "from tests.test_benchmark_turns import *\n"
        "def killed(worker, seconds):\n"
        "    print(worker.pid, flush=True)\n"
        "    kill_itself()\n"
        "workers.Worker._answer = killed\n"
        "with Turns(1, quiet_console()) as turns:\n"
        "    turns.start('orphan', partial(Witness, 'orphan', Path(sys.argv[1])))\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=False).stdout
    assert no_process_is_left(int(said))
    assert list(tmp_path.iterdir()) == []


FLOAT32 = [engine for engine in ENGINES if engine.precision == "float32"]
COMPILED, ONNX, OPENVINO, OURS = (engine.name for engine in FLOAT32[1:5])


def test_engines_are_checked_against_eager_and_those_that_fail_are_left_out(tmp_path: Path) -> None:
    right = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
    fake: Any = FakeTurns(
        {EAGER.name: right, COMPILED: CandidateFailed("crashed"), OURS: right * (1 + 1e-6)},
        EngineRunner.output,
    )
    assert list(start_engines(fake, bert_base(tmp_path), FLOAT32[:5], (1, 8))) == [EAGER.name, OURS]
    assert fake.failed == {COMPILED: "crashed", ONNX: "not built", OPENVINO: "not built"}


def test_a_wrong_peer_is_left_out_and_a_wrong_engine_of_ours_stops_the_run(tmp_path: Path) -> None:
    right = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
    wrong = {COMPILED: right * np.nan, OURS: right}
    fake: Any = FakeTurns({EAGER.name: right, **wrong}, EngineRunner.output)
    assert list(start_engines(fake, bert_base(tmp_path), FLOAT32[:5], (1, 8))) == [EAGER.name, OURS]
    assert fake.failed[COMPILED].startswith(f"{COMPILED}, BERT-base 1x8: output differs from eager by nan")
    fake = FakeTurns({EAGER.name: right, OURS: right + 1.0}, EngineRunner.output)
    with pytest.raises(WrongEngine, match=rf"{OURS}, BERT-base 1x8: output differs"):
        start_engines(fake, bert_base(tmp_path), FLOAT32[:5], (1, 8))


def test_without_eager_nothing_can_be_checked_so_nothing_is_measured(tmp_path: Path) -> None:
    fake: Any = FakeTurns({ONNX: np.zeros((1, 8, 4), np.float32)}, EngineRunner.output)
    assert start_engines(fake, bert_base(tmp_path), FLOAT32[:3], (1, 8), prefix="x, ") == {}
    assert list(fake.failed) == [f"x, {engine.name}" for engine in FLOAT32[:3]]
    assert fake.failed[f"x, {ONNX}"] == "there is no transformers eager to check it against"
