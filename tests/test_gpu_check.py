"""`benchmarks.gpu_check`: what fails, hangs, dies or is killed costs itself only, and what was found is on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_runner
from benchmarks.gpu_runner import Part, Record, Results, how, run_parts

ROOT = Path(__file__).parents[1]

STAND_IN = """
import json, os, signal, sys, time
from benchmarks.gpu_runner import Results
results, part, *cases = sys.argv[1:]
for case in cases:
    print("at", case, flush=True)
    kind = case.partition(" ")[0]
    if kind == "dies":
        os._exit(7)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if kind == "slow":
        time.sleep(0.4)
    error = {"error": "it failed"} if kind in ("fails", "sticky") else {}
    Results(__import__("pathlib").Path(results)).add(part, case, {"pid": os.getpid(), **error})
    if kind == "sticky":
        sys.exit(3)
"""
"""What a child process does, by the name of a case."""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_runner, "GRACE", 0.2)


def start_in(results: Path) -> Any:
    def start(part: Part, cases: Sequence[str], until: float, output: Path) -> subprocess.Popen[Any]:
        command = [sys.executable, "-c", STAND_IN, str(results), part.name, *cases]
        with output.open("w") as stream:
            return subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, preexec_fn=os.setpgrp)

    return start


def part(name: str, cases: Sequence[str], seconds: float = 60.0, **options: Any) -> Part:
    return Part(name, seconds, lambda: list(cases), "", **options)


def run(out: Path, *parts: Part, seconds: float = 120.0) -> list[Record]:
    results = Results(out / "results.jsonl")
    until = time.time() + seconds
    run_parts(parts, until, results, start_in(results.path), out, say=lambda text: None)
    return results.read()


def by_case(records: Sequence[Record]) -> dict[str, Record]:
    return {record["case"]: record for record in records}


def test_each_case_stands_for_itself(tmp_path: Path) -> None:
    cases = ["ok 1", "fails 2", "ok 3", "dies 4", "ok 5", "killed 6", "ok 7", "sticky 8", "ok 9"]
    found = by_case(run(tmp_path, part("first", cases), part("second", ["ok"])))
    assert found["ok 1"]["pid"] == found["fails 2"]["pid"] == found["ok 3"]["pid"]  # as long as a child lives
    assert found["fails 2"]["error"] == found["sticky 8"]["error"] == "it failed"
    assert found["dies 4"]["error"] == "the process ended with status 7"
    assert found["killed 6"]["error"] == "the process was killed by SIGKILL"
    assert len({found[f"ok {n}"]["pid"] for n in (3, 5, 7, 9)}) == 4
    assert "error" not in found["ok 9"]
    assert "error" not in found["ok"]
    assert "at dies 4" in (tmp_path / "log.txt").read_text()


def test_a_case_that_hangs_is_killed_and_the_next_goes_on(tmp_path: Path) -> None:
    found = by_case(run(tmp_path, part("a", ["hangs", "ok"], case_seconds=3.0)))
    assert found["hangs"]["error"] == "stopped: it took longer than 3 s"
    assert "error" not in found["ok"]


def test_a_part_ends_at_its_deadline_and_says_what_it_left_out(tmp_path: Path) -> None:
    begin = time.time()
    found = by_case(run(tmp_path, part("a", ["hangs", "ok"], seconds=3.0), part("b", ["ok b"])))
    assert found["hangs"] == found["hangs"] | {"skipped": "stopped: the part's time was up"}
    assert found["ok"]["skipped"] == "no time was left"
    assert "skipped" not in found["ok b"]
    assert time.time() - begin < 60.0


def test_no_part_starts_when_all_time_is_up(tmp_path: Path) -> None:
    found = by_case(run(tmp_path, part("a", ["ok"]), part("b", ["ok b"]), seconds=-1.0))
    assert {record["skipped"] for record in found.values()} == {"no time was left"}


def test_children_work_at_the_same_time_where_a_part_says_so(tmp_path: Path) -> None:
    cases = [f"ok {n}" for n in range(6)]
    found = by_case(run(tmp_path, part("a", cases, per_child=2, at_once=3)))
    assert len({record["pid"] for record in found.values()}) == 3


def test_a_part_in_the_background_delays_only_those_that_need_it(tmp_path: Path) -> None:
    slow = part("slow", ["slow 1", "slow 2", "slow 3"], per_child=1, beside=True)
    records = run(tmp_path, slow, part("free", ["ok free"]), part("after", ["ok after"], after="slow"))
    order = [record["case"] for record in records]
    assert order.index("ok free") < order.index("slow 3") < order.index("ok after")


def test_a_part_in_the_background_ends_with_the_others(tmp_path: Path) -> None:
    found = by_case(run(tmp_path, part("b", ["hangs"], seconds=2.0, beside=True), part("a", ["ok"])))
    assert found["hangs"]["skipped"] == "stopped: the part's time was up"


def test_a_part_whose_cases_cannot_be_listed_costs_itself(tmp_path: Path) -> None:
    def broken() -> list[str]:
        raise ImportError("no such file")

    found = run(tmp_path, Part("a", 9.0, broken, ""), part("b", ["ok"]))
    assert (found[0]["part"], found[0]["error"]) == ("a", "ImportError: no such file")
    assert by_case(found)["ok"]["part"] == "b"


def test_a_part_that_cannot_run_here_says_why(tmp_path: Path) -> None:
    (found,) = run(tmp_path, part("ncu", ["a", "b"], obstacle=lambda: "ncu is not installed"))
    assert found["skipped"] == "ncu is not installed"


def test_a_tools_output_is_read_however_it_ended(tmp_path: Path) -> None:
    def read(text: str, cases: Sequence[str], status: int | None) -> list[tuple[str, Record]]:
        return [("hangs", {"read": text.split(), "status": status})]

    found = by_case(run(tmp_path, part("a", ["hangs"], seconds=3.0, read=read)))
    assert found["hangs"]["read"] == ["at", "hangs"]
    assert found["hangs"]["status"] is None
    assert "skipped" not in found["hangs"]


def test_a_line_that_was_cut_is_passed_over_until_it_is_whole(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    assert results.read() == []
    results.add("a", "x", {})
    with results.path.open("a") as stream:
        stream.write('{"part": "a", "ca')
    assert [record["case"] for record in results.read()] == ["x"]
    with results.path.open("a") as stream:
        stream.write('se": "y"}\nno json\n')
    results.add("a", "z", {})
    assert [record["case"] for record in results.read()] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "ended with status 1"), (-11, "was killed by SIGSEGV"), (-99, "was killed by signal 99")],
)
def test_an_end_is_told_in_words(status: int, words: str) -> None:
    assert how(status) == words


RUNNER = """
import sys, time
from pathlib import Path
from benchmarks import gpu_check, gpu_plan
sys.path.insert(0, "tests")
from test_gpu_check import part, start_in
gpu_plan.PARTS = (part("a", ["ok 1", "hangs"]), part("b", ["ok 2"]))
out = Path(sys.argv[2])
gpu_check.Children = lambda results, dry: start_in(results)
gpu_check.main()
"""
"""`gpu_check` itself, on stand-ins."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_of_all_leaves_what_was_found(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", RUNNER, "--out", str(tmp_path), "--dry-run"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    path = tmp_path / "results.jsonl"
    deadline = time.time() + 60.0
    while (not path.exists() or "ok 1" not in path.read_text()) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    output = process.communicate(timeout=60.0)[0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["case"] for record in lines] == ["command", "ok 1"]
    assert (tmp_path / "summary.txt").exists() == (
        number == signal.SIGTERM
    )  # it can be made of results.jsonl
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "no failures" in output
        assert (tmp_path / "summary.txt").read_text() in output
    else:  # the stand-in, which knows nothing of its parent, is still there
        os.kill(-int(lines[1]["pid"]), signal.SIGKILL)


def command(*options: str) -> subprocess.CompletedProcess[str]:
    every = [sys.executable, "-m", "benchmarks.gpu_check", *options]
    return subprocess.run(every, cwd=ROOT, capture_output=True, text=True, timeout=120)


REST = ("bundled", "tests", "curves")
"""Parts that have what time is left."""


def test_parts_are_listed_with_their_times() -> None:
    from benchmarks.gpu_plan import PARTS

    lines = command("--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [part.name for part in PARTS]
    assert sum(part.seconds for part in PARTS if not part.beside and part.name not in REST) <= 480


def test_wrong_options_are_one_line(tmp_path: Path) -> None:
    assert "--only: no part nonsense; there are warm" in command("--out", "x", "--only", "nonsense").stderr
    (tmp_path / "results.jsonl").touch()
    assert "holds the results of another run" in command("--out", str(tmp_path)).stderr


def test_every_part_has_its_work_and_none_runs_this_file() -> None:
    from benchmarks.gpu_plan import PARTS, WORK
    from benchmarks.gpu_tools import TESTS

    assert set(WORK) == {part.name for part in PARTS}
    assert not any((ROOT / tests).is_dir() and list((ROOT / tests).glob("test_gpu_*")) for tests in TESTS)


def test_a_whole_part_in_a_dry_run(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    done = command("--out", str(tmp_path), "--dry-run", "--only", "about", "--commit", "fedcba")
    assert done.returncode == 0, done.stdout + done.stderr
    found = by_case(Results(tmp_path / "results.jsonl").read())
    assert set(found) == {"command", "machine", "ceilings"}
    assert found["machine"]["ptxas"]["version"]
    assert found["command"]["commit"] == "fedcba"
    assert all(record["dry_run"] for record in found.values())
    assert "A DRY RUN: nothing was measured" in done.stdout
