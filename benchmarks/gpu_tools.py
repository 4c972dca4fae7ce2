"""The programs that `benchmarks.gpu_check` runs around its cases, and how what they print is read: ncu,
compute-sanitizer, pytest.

Each `*_command` makes a command of a child's own; each `read_*` turns all that it printed, however far it came, into
(case, record).
"""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu_machine import tool

MARK = "==== case "
"""A child prints it, and the case's name, before each case: a tool's lines after it belong to that."""

TESTS = ("tests/triton", "tests/test_training_devices.py")
DRY_TESTS = ("tests/triton/test_patch_kernels.py", "-k", "probe")


# Nsight Compute


METRICS = {
    "us": "gpu__time_duration.sum",
    "tensor_pipe_percent": r"sm__\w*pipe_tensor\w*\.avg\.pct_of_peak_sustained_active",
    "sm_percent": r"sm__throughput\.avg\.pct_of_peak_sustained_elapsed",
    "l1_percent": r"l1tex__throughput\.avg\.pct_of_peak_sustained_(active|elapsed)",
    "l2_percent": r"lts__throughput\.avg\.pct_of_peak_sustained_elapsed",
    "dram_percent": r"(gpu__dram|dram)_+throughput\.avg\.pct_of_peak_sustained_elapsed",
    "occupancy_percent": r"sm__warps_active\.avg\.pct_of_peak_sustained_active",
    "registers": r"launch__registers_per_thread",
    "local_loads": r"smsp__inst_executed_op_local_ld\.sum",
}
"""By the names of ours: of ncu's columns the first that matches. Which there are depends on chip and version."""
STALL = re.compile(r"smsp__average_warps?_(?:issue_stalled|latency_issue_stalled)_(\w+?)(?:_per_\w+)?\.ratio")


def ncu_command(own: list[str], cases: Sequence[str]) -> list[str]:
    """Only what the child marks by the profiler's start and stop; clocks are left as they are."""
    ncu = tool("ncu") or "ncu"
    options = ["--set", "full", "--clock-control", "none", "--profile-from-start", "off"]
    return [ncu, *options, "--csv", "--page", "raw", *own]


def read_ncu(text: str, cases: Sequence[str], status: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each case the kernels that it launched; where it has none, why."""
    lines = text.splitlines()
    table = [line for line in lines if line.startswith('"')]
    rows = [row for row in csv.DictReader(table) if (row.get("ID") or "").isdigit()]
    kernels = iter([kernel_of(row) for row in rows])
    errors = [line.strip() for line in lines if "==ERROR==" in line]
    why = errors[0] if errors else f"it was not profiled (status {status})"
    found = {case: [] for case in cases}
    for case, launched in launches_of(lines):
        for name in launched:  # what PyTorch launched between them is passed over
            kernel = next((kernel for kernel in kernels if kernel["kernel"].startswith(name)), None)
            if kernel is not None:
                found.setdefault(case, []).append(kernel)
    for case, profiled in found.items():
        yield case, {"kernels": profiled} if profiled else {"error" if status is not None else "skipped": why}


LAUNCHED = "==== launched "
"""A child prints it after a case, with the names of the kernels."""


def launches_of(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(case, names of its kernels), as a child printed them."""
    case = ""
    for line in lines:
        if line.startswith(MARK):
            case = line.removeprefix(MARK)
        elif line.startswith(LAUNCHED):
            yield case, line.removeprefix(LAUNCHED).split()


def kernel_of(row: dict[str, str]) -> dict[str, Any]:
    """Of a kernel's hundreds of columns what the summary says, and its five largest reasons to wait."""
    record: dict[str, Any] = {"kernel": row["Kernel Name"][:80]}
    for name, pattern in METRICS.items():
        column = next((column for column in row if column and re.fullmatch(pattern, column)), None)
        if column is not None and (value := number(row[column])) is not None:
            record[name] = value
    stalls = {
        match[1]: value
        for column in row
        if column and (match := STALL.fullmatch(column)) and (value := number(row[column])) is not None
    }
    record["stalls"] = dict(sorted(stalls.items(), key=lambda item: -item[1])[:5])
    return record


def number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


# compute-sanitizer


MEMCHECK = ("--error-exitcode", "9", "--report-api-errors", "no")
"""What an API call returns is Python's to tell, and PyTorch asks for what may be missing."""


def memcheck_command(own: list[str], cases: Sequence[str]) -> list[str]:
    return [tool("compute-sanitizer") or "compute-sanitizer", "--tool", "memcheck", *MEMCHECK, *own]


def read_memcheck(
    text: str, cases: Sequence[str], status: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """An error for each case after whose mark the checker found something, and one if it never came to its end."""
    case = "start"
    faults: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(MARK):
            case = line.removeprefix(MARK)
        elif re.match(r"=+ (Invalid|Out-of-range|Misaligned|Internal)", line):
            faults.setdefault(case, []).append(line.strip("= "))
    for name, lines in faults.items():
        yield name, {"error": f"memcheck: {lines[0]}" + f" (and {len(lines) - 1} more)" * (len(lines) > 1)}
    if "ERROR SUMMARY" not in text and not faults and status is not None:
        yield "end", {"error": "compute-sanitizer printed no summary: see log.txt"}


# pytest


def tests_command(own: list[str], cases: Sequence[str]) -> list[str]:
    """Verbose: a line for each test, so that a kill loses nothing."""
    dry = "--dry-run" in own
    command = [sys.executable, "-u", "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist") and not dry:  # most of the time goes into compiling
        command += ["-n", str(max(1, min(14, (os.cpu_count() or 1) - 2)))]
    return command + list(DRY_TESTS if dry else TESTS)


OUTCOMES = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
BY_XDIST = re.compile(rf"^\[gw\d+\] \[ *\d+%\] ({OUTCOMES}) (\S+::.*)$")
BY_ONE = re.compile(rf"^(\S+::.*?) ({OUTCOMES})\b.*$")
AT_THE_END = re.compile(r"^(FAILED|ERROR) (\S.*?)(?: - .*)?$")


def read_tests(text: str, cases: Sequence[str], status: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """How many of what outcome there were, and which failed."""
    outcomes: dict[str, str] = {}
    for line in map(str.rstrip, text.splitlines()):
        if match := BY_XDIST.match(line) or AT_THE_END.match(line):
            outcomes[match[2]] = match[1].lower()
        elif match := BY_ONE.match(line):
            outcomes[match[1]] = match[2].lower()
    failed = [name for name, outcome in outcomes.items() if outcome in ("failed", "error")]
    record: dict[str, Any] = {"counts": dict(Counter(outcomes.values())), "stopped": status is None}
    if failed or status not in (0, None):
        named = f": {', '.join(failed[:10])}" if failed else ""
        record |= {"error": f"{len(failed)} tests failed, status {status}{named}", "failed": failed}
    yield cases[0] if cases else "tests", record
