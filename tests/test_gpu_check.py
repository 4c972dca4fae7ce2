"""`benchmarks.gpu_check`: no step that fails, dies or hangs costs another; what is not as it should be is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import measure, pytest_result, run_logged
from benchmarks.gpu_report import report, unmet
from benchmarks.gpu_steps import EAGER, GRAPHS, OURS, PRODUCT, row

STAND_IN = """
import json, os, pathlib, sys, time
steps = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    kind = name.partition("_")[0]
    if kind == "dies":
        os._exit(7)
    if kind == "hangs":
        time.sleep(600)
    part = steps / (name + ".part")
    part.write_text(json.dumps({"error": "it failed"} if kind == "fails" else {"pid": os.getpid()}))
    part.replace(steps / (name + ".json"))
"""
"""What a child process does, by the name of a step."""


def run_steps(names: list[str], out: Path, seconds: float = 60.0, limit: float = 20.0) -> dict[str, Any]:
    (out / "steps").mkdir()

    def start(left: list[str]) -> subprocess.Popen[Any]:
        command = [sys.executable, "-c", STAND_IN, str(out / "steps"), *left]
        return subprocess.Popen(command, start_new_session=True)

    now = time.monotonic()
    limits = {name: 1.0 if name.startswith("hangs") else limit for name in names}
    measure(names, limits, out, now + seconds, now, start)
    return {path.stem: json.loads(path.read_text()) for path in (out / "steps").glob("*.json")}


def test_each_step_stands_for_itself(tmp_path: Path) -> None:
    names = ["works_1", "fails_2", "works_3", "dies_4", "works_5", "hangs_6", "works_7"]
    results = run_steps(names, tmp_path)
    assert set(results) == set(names)
    assert results["works_1"] == results["works_3"]  # one process, as long as it lives
    assert results["works_3"] != results["works_5"] != results["works_7"]
    assert results["fails_2"] == {"error": "it failed"}
    assert results["dies_4"] == {"error": "the process ended with status 7; see measure.log"}
    assert results["hangs_6"] == {"error": "the process took longer than 1 s; see measure.log"}
    assert len(unmet(results)) == 3


def test_what_no_time_was_left_for_is_told(tmp_path: Path) -> None:
    results = run_steps(["works_1", "works_2"], tmp_path, seconds=0.0)
    assert set(map(str, results.values())) == {"{'error': 'not run: no time was left'}"}


def test_a_command_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_logged([sys.executable, "-c", "print('hello')"], log, 30.0) == 0
    assert log.read_text() == "hello\n"
    begin = time.monotonic()
    assert run_logged([sys.executable, "-c", "import time; time.sleep(100)"], log, 0.5) is None
    assert time.monotonic() - begin < 30.0


def test_pytests_last_words_are_understood(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "...F\nFAILED tests/a.py::b[c] - assert 1 == 2\nERROR tests/d.py\n"
        "1 failed, 3 passed, 2 skipped, 1 error in 9s\n"
    )
    result = pytest_result(log, 1)
    assert result["counts"] == {"failed": 1, "passed": 3, "skipped": 2, "error": 1}
    assert result["failed"] == ["tests/a.py::b[c]", "tests/d.py"]
    assert unmet({"tests": result})
    log.write_text("5 passed in 1s\n")
    assert unmet({"tests": pytest_result(log, 0)}) == []
    assert unmet({"tests": pytest_result(log, None)}) != []


def results_with(**steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "dry_run": False,
        **{name: {"case": name, "rows": rows, "errors": {}} for name, rows in steps.items()},
    }


def test_goals_are_held_against_the_medians(tmp_path: Path) -> None:
    rows = [row(EAGER, [9.0, 8.0, 7.0], 4e9), row(OURS, [1.0, 2.0, 3.0], 4e9), row(PRODUCT, [1.0] * 3, 1e10)]
    text = report(
        results_with(model_256x128=rows, latency=[row(EAGER, [3.0] * 3), row(GRAPHS, [0.5] * 3)]), tmp_path
    )
    assert "| 256x128: of the square product's rate | 0.2 | at least 0.6 | missed |" in text
    assert "| 256x128: times as fast as eager | 4 | at least 4 | met |" in text
    assert "| 256x128: times as fast as torch.compile |  | at least 2 | not measured |" in text
    assert "| 1x128 with CUDA graphs, ms from call to result | 0.5 | at most 0.25 | missed |" in text
    assert f"| {OURS} | 2.00 ms | " in text
    assert (tmp_path / "gpu_models.svg").exists()


@pytest.mark.parametrize("times", [[], [1.5], [1.0, 2.0]])
def test_a_row_of_few_or_no_times(times: list[float]) -> None:
    one = row("x", times, 1e9, 1e6)
    assert one["median_ms"] == (1.5 if times else None)
    assert (one["tflops"] is None) == (not times)


def test_a_candidate_that_was_left_out_is_a_problem_but_a_tile_is_not() -> None:
    errors = {"errors": {"x": "OutOfResources: shared memory"}}
    assert unmet({"model_1x128": errors}) == ["model_1x128: x: OutOfResources: shared memory"]
    assert unmet({"tiles_attention": errors}) == []
