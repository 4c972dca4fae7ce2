"""What a machine tells of others' work meanwhile, and that nothing fails where it tells nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from squeezebert_fast.benchmark import load
from squeezebert_fast.benchmark.load import Load, Usage, load_average, others_share, usage


def test_the_share_of_others_is_what_was_busy_and_not_ours() -> None:
    start = Usage(busy=100.0, own=40.0, total=1000.0)
    assert others_share(start, Usage(busy=118.0, own=50.0, total=1020.0)) == pytest.approx(0.4)
    assert others_share(start, Usage(busy=109.0, own=50.0, total=1020.0)) == 0.0  # clocks differ by a tick
    assert others_share(start, Usage(busy=200.0, own=40.0, total=1020.0)) == 1.0
    assert others_share(start, start) is None
    assert others_share(None, start) is None
    assert others_share(start, None) is None


STAT = """cpu  9 9 9 9 9 9 9 9 9 9
cpu0 100 20 30 400 50 6 7 8 90 9
cpu1 1000 0 0 1000 0 0 0 0 0 0
cpu2 5 5 5 5
intr 12345 0 1
ctxt 99
"""


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str, usable: set[int]) -> None:
    (folder / "stat").write_text(text)
    monkeypatch.setattr(load, "STAT", folder / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: usable, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100, raising=False)


def test_only_the_cpus_that_we_may_use_count_and_stolen_time_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, STAT, {0})
    found = usage()
    assert found is not None
    assert found.busy == pytest.approx(0.01 * (100 + 20 + 30 + 6 + 7 + 8))
    assert found.total == pytest.approx(found.busy + 0.01 * (400 + 50))
    assert found.own == pytest.approx(sum(os.times()[:4]), abs=1.0)
    pretend(monkeypatch, tmp_path, STAT, {0, 2})  # a kernel with fewer fields
    more = usage()
    assert more is not None
    assert more.total == pytest.approx(found.total + 0.2)


def test_a_system_that_tells_nothing_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "STAT", tmp_path / "none")
    assert usage() is None
    monkeypatch.setattr(load, "STAT", tmp_path)
    assert usage() is None
    monkeypatch.undo()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usage() is None
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert load_average() is None
    assert str(Load()) == ""


def test_a_candidate_that_has_ended_is_no_failure() -> None:
    if not load.STAT.exists():
        pytest.skip("there is no /proc")
    assert usage([2**22 + 1]) is not None  # above the highest number of a process


def test_a_load_is_two_lines_for_people() -> None:
    assert str(Load(0.5, 2.25, 0.034, 0.5)).splitlines() == [
        "load average: 0.50 before, 2.25 during",
        "share of the CPUs' time that others took: 3% before, 50% during",
    ]
    assert str(Load(average_before=0.5)) == "load average: 0.50 before"
    assert str(Load(others_during=0.0)) == "share of the CPUs' time that others took: 0% during"
