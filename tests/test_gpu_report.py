"""What `benchmarks.gpu_check` prints last, what `benchmarks.gpu_report` makes of it; how tools are read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_findings import PREDICTED, Found, failures, goals, left_out
from benchmarks.gpu_names import BMM, COMPILED, EAGER, GRAPHS, OURS, PATCHED
from benchmarks.gpu_report import SUMMARY_LINES, markdown, summary
from benchmarks.gpu_runner import Record
from benchmarks.gpu_tools import LAUNCHED, MARK, read_memcheck, read_ncu, read_tests

ROOT = Path(__file__).parents[1]
A = "A self_attention, 256x128, mask by key"


def timed(candidate: str, us: float, **more: Any) -> dict[str, Any]:
    return {"candidate": candidate, "us": us, "p20_us": us, "p80_us": us, "rounds": 3, **more}


def case(part: str, name: str, *rows: dict[str, Any], **more: Any) -> Record:
    return {"part": part, "case": name, "rows": list(rows), **more}


CEILINGS = case(
    "about",
    "ceilings",
    timed("square product", 1392.0, tflops=800.0),
    timed("copy", 2000.0, gbytes_per_second=4000.0),
)
MACHINE: Record = {
    "part": "about",
    "case": "machine",
    "date": "2026-12-01",
    "git_commit": "0123456789abcdef",
    "python": "3.12.3",
    "versions": {"torch": "2.11.0"},
    "machine": {"versions": {"triton": "3.6.0"}},
    "ptxas": {"version": "V12.8.93"},
    "gpu": {"name": "NVIDIA H200"},
}
MEASURED = [
    MACHINE,
    CEILINGS,
    case(
        "times",
        A,
        timed("shipped", 110.0, tflops=400.0, gbytes_per_second=900.0),
        timed("64x64x64 w4 s3", 100.0),
        timed("torch", 300.0),
        errors={"128x256x64 w8 s4": "OutOfResources: shared memory"},
    ),
    case("times", "embeddings, 32768 rows", timed("shipped", 30.0, gbytes_per_second=3000.0)),
    case(
        "models",
        "model, 256x128",
        timed(EAGER, 30000.0, tflops=60.0),
        timed(BMM, 9000.0),
        timed(OURS, 5000.0, tflops=360.0),
        timed("square product", 1500.0, tflops=720.0),
    ),
    case(
        "models",
        "compiled, 256x128",
        timed(OURS, 5000.0),
        timed(COMPILED + EAGER, 15000.0),
        timed(COMPILED + BMM, 7500.0),
    ),
    case("models", "latency, 1x128", timed(EAGER, 3000.0), timed(GRAPHS, 300.0), host_us_of_a_call=90.5),
    case(
        "training",
        "training step, 64x512",
        timed(EAGER, 100000.0, step_bytes=4e9, tokens_per_second=1e5),
        timed(PATCHED, 40000.0, step_bytes=1e9, tokens_per_second=3e5, tflops=177.0),
        profile=[["attention_kernel", 12, 4000.0]],
    ),
]


def test_the_summary_says_failures_first_and_goals_last() -> None:
    wrong = {"part": "exact", "case": "C 128x64", "error": "Wrong: y: 3 values are wrong"}
    lines = summary(
        [*MEASURED, wrong, {"part": "tests", "case": "tests", "skipped": "no time was left"}]
    ).splitlines()
    assert lines[0].startswith(
        "NVIDIA H200, 2026-12-01, commit 012345678, Python 3.12.3, torch 2.11.0, triton 3.6.0"
    )
    assert lines[2:5] == [
        "FAILURES: 1",
        "  exact: C 128x64: Wrong: y: 3 values are wrong",
        "left out: tests: tests",
    ]
    assert "predicted" in lines[5]
    shown = next(line for line in lines if line.startswith(A))
    assert shown.endswith("50% product        300 us  64x64x64 w4 s3: 100 us")
    assert "110 us     95-125 us      400" in shown
    assert lines.index("GOALS") > lines.index(shown)


def test_the_summary_fits_however_much_there_is_to_say() -> None:
    many = [case("times", f"product {n}", timed("shipped", 10.0 + n)) for n in range(100)]
    wrong = [{"part": "exact", "case": f"case {n}", "error": "x" * 1000} for n in range(100)]
    text = summary([*MEASURED, *many, *wrong])
    assert len(text.splitlines()) <= SUMMARY_LINES
    assert len(text) < 8000  # of the 12,000 characters that come back
    assert "... and 92 more" in text
    assert A in text  # what was predicted is never cut
    assert "GOALS" in text


def test_the_summary_of_nothing() -> None:
    assert "no failures" in summary([])


def test_the_commit_that_was_asked_for_stands_in_where_there_was_no_git() -> None:
    command: Record = {"part": "run", "case": "command", "commit": "fedcba9876543210"}
    assert "commit fedcba987" in summary([command, {**MACHINE, "git_commit": None}])
    assert "commit 012345678" in summary([command, MACHINE])


def test_a_dry_run_says_so_first() -> None:
    assert summary([{**CEILINGS, "dry_run": True}]).startswith("A DRY RUN")


def test_goals_are_held_against_the_rows() -> None:
    found = {goal.what: (goal.value, goal.verdict) for goal in goals(Found(MEASURED))}
    assert found["256x128: of the product's rate"] == (0.5, "missed")  # of the product in the same rounds
    assert found["256x128: over eager"] == (6.0, "met")
    assert found["256x128: over torch.compile"] == (1.5, "missed")  # the better of the two
    assert found["1x128, graphs: ms"] == (0.3, "missed")
    assert found["1x128, graphs: over eager"] == (10.0, "met")
    assert found["training 64x512: over eager"] == (2.5, "missed")
    assert found["training 64x512: of eager's memory"] == (0.25, "met")
    assert found["training 32x128: over eager"] == (None, "not measured")


def test_a_tile_that_was_left_out_is_no_failure_but_the_shipped_one_is() -> None:
    assert failures(MEASURED) == []
    record = case("times", "B", errors={"shipped": "OutOfResources", "x": "y"})
    assert failures([record]) == ["times: B: shipped: OutOfResources"]
    assert failures([case("models", "m", errors={BMM: "E: f"})]) == [f"models: m: {BMM}: E: f"]


def test_what_was_left_out_is_told_by_part() -> None:
    records: list[Record] = [
        {"part": "exact", "case": "a", "skipped": "no time was left"},
        {"part": "ncu", "case": "all", "skipped": "ncu is not installed"},
    ]
    assert left_out(records) == {"exact": ["a"], "ncu": ["ncu is not installed"]}


def test_predictions_are_of_cases_that_there_are() -> None:
    pytest.importorskip("triton")
    from benchmarks import gpu_kernels_forward, gpu_models, gpu_training

    known = (
        {each.name for each in gpu_kernels_forward.cases()}
        | set(gpu_models.cases())
        | set(gpu_training.cases())
    )
    assert {name for name, _ in PREDICTED} <= known


def test_the_markdown_has_every_case() -> None:
    kernel = {"kernel": "self_attention_kernel", "us": 110.0, "registers": 168.0, "stalls": {"wait": 1.5}}
    runs = [
        {"name": "eager", "losses": [0.7, 0.5], "dev": {"accuracy": 0.9}, "tokens_per_second": 1e5},
        {
            "name": "patched, dropout",
            "losses": [0.7, 0.6],
            "dev": {"accuracy": 0.8},
            "tokens_per_second": None,
        },
    ]
    more: list[Record] = [
        {"part": "ncu", "case": A, "kernels": [kernel]},
        {
            "part": "curves",
            "case": "curves",
            "curves": "300 steps",
            "runs": runs,
            "patched_from_eager": 0.0123,
            "bfloat16_from_float32": None,
        },
        {"part": "tests", "case": "tests", "counts": {"passed": 3}, "stopped": True},
    ]
    text = markdown(Found([*MEASURED, *more]))
    assert f"| {A} | 110 us | 95-125 us | 400 | 50% product |" in text
    assert "| 64x64x64 w4 s3 | 100 us | 100 us .. 100 us | 1.1 |" in text
    assert "Left out: 128x256x64 w8 s4: OutOfResources: shared memory" in text
    assert "Host time of a call, nothing waited for: 90.5 us." in text
    assert f"| {A} | self_attention_kernel | 110 |" in text
    assert "| 168 | wait 1.5 |" in text
    assert "| `attention_kernel` | 12 | 4000 |" in text
    assert f"| {PATCHED} | 40 ms |" in text
    assert "3e+05 | 1000 |" in text
    assert "| eager | 0.7000 | 0.6000 | 0.9000 | 100,000 |" in text
    assert "patched from eager, both bfloat16: 0.0123" in text
    assert "{'passed': 3} (stopped by the time)" in text


def report(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_report", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_came_back_becomes_files_to_keep(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in MEASURED) + '{"part": "tim')
    done = report(str(path), "--out", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "kept" / "gpu.json").read_text())
    assert kept["gpu"]["name"] == "NVIDIA H200"
    assert len(kept["cases"]) == len(MEASURED)
    assert (tmp_path / "kept" / "gpu.md").read_text().startswith("# GPU check")
    path.write_text(json.dumps({**MACHINE, "dry_run": True}) + "\n")
    assert "is nothing to keep" in report(str(path), "--out", str(tmp_path / "kept")).stderr
    assert "is not a file" in report(str(tmp_path / "none.jsonl")).stderr


# Tools

TENSOR = '"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"'
STALLS = ",".join(
    f'"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio"'
    for reason in ("long_scoreboard", "wait")
)
NCU = f"""==PROF== Connected to process 1
{MARK}A
==PROF== Profiling "self_attention_kernel"
{LAUNCHED}self_attention_kernel
{MARK}weight
{LAUNCHED}weight_gradient_kernel
{MARK}lost
==PROF== Disconnected from process 1
"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread",{TENSOR},{STALLS}
"","","us","register/thread","%","inst","inst"
"0","self_attention_kernel","110.5","175","41.25","1.25","2.5"
"1","void at::native::reduce_kernel","9","32","0","1","1"
"2","weight_gradient_kernel","1,234.5","64","70","0.5","0.25"
"""


def test_counters_belong_to_the_case_that_launched_the_kernel() -> None:
    found = dict(read_ncu(NCU, ["A", "weight", "lost"], 0))
    (kernel,) = found["A"]["kernels"]
    assert (kernel["us"], kernel["registers"], kernel["tensor_pipe_percent"]) == (110.5, 175.0, 41.25)
    assert list(kernel["stalls"].items()) == [("wait", 2.5), ("long_scoreboard", 1.25)]
    assert found["weight"]["kernels"][0]["us"] == 1234.5  # PyTorch's kernel between them is nobody's
    assert found["lost"]["error"] == "it was not profiled (status 0)"


def test_without_permission_for_counters_ncu_says_so_for_each_case() -> None:
    text = f"{MARK}A\n==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access counters\n"
    found = dict(read_ncu(text, ["A", "B"], 1))
    assert set(found) == {"A", "B"}
    assert all("ERR_NVGPUCTRPERM" in record["error"] for record in found.values())


def test_a_memory_error_belongs_to_the_case_after_whose_mark_it_stands() -> None:
    text = f"""========= COMPUTE-SANITIZER
{MARK}A
{MARK}B
========= Invalid __global__ read of size 2 bytes
=========     at attention_kernel+0x100
========= Invalid __global__ read of size 2 bytes
========= ERROR SUMMARY: 2 errors
"""
    expected = {"B": {"error": "memcheck: Invalid __global__ read of size 2 bytes (and 1 more)"}}
    assert dict(read_memcheck(text, ["A", "B"], 9)) == expected
    assert dict(read_memcheck(f"{MARK}A\n========= ERROR SUMMARY: 0 errors\n", ["A"], 0)) == {}
    assert "no summary" in dict(read_memcheck("Device not supported\n", ["A"], 1))["end"]["error"]
    assert (
        dict(read_memcheck(f"{MARK}A\n", ["A"], None)) == {}
    )  # stopped: what it found until then is nothing


@pytest.mark.parametrize(
    "lines",
    [
        "tests/a.py::b[x y] PASSED   [ 33%]\ntests/a.py::c FAILED     [ 66%]\ntests/a.py::d SKIPPED (no) [99%]\n",
        "[gw0] [ 33%] PASSED tests/a.py::b[x y] \n[gw1] [ 66%] FAILED tests/a.py::c \n"
        "[gw1] [ 99%] SKIPPED tests/a.py::d \n",
    ],
    ids=["pytest", "xdist"],
)
def test_pytests_lines_are_counted_though_it_never_came_to_its_end(lines: str) -> None:
    ((name, record),) = read_tests(lines, ["tests"], None)
    assert name == "tests"
    assert record["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert record["failed"] == ["tests/a.py::c"]
    assert record["stopped"]
    ended = lines + "FAILED tests/a.py::c - assert 1 == 2\nERROR tests/d.py\n1 failed\n"
    ((_, record),) = read_tests(ended, ["tests"], 1)
    assert record["failed"] == ["tests/a.py::c", "tests/d.py"]
    assert "error" in record


def test_tests_that_all_pass_are_no_error() -> None:
    ((_, record),) = read_tests("tests/a.py::b PASSED [100%]\n", ["tests"], 0)
    assert record == {"counts": {"passed": 1}, "stopped": False}
    ((_, record),) = read_tests("", ["tests"], 4)
    assert record["error"] == "0 tests failed, status 4"
