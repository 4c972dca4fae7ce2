"""Everything about the Triton kernels that needs a GPU, in one call of eight minutes: make gpu-check

    python -m benchmarks.gpu_check --out DIR
    python -m benchmarks.gpu_check --out DIR --only times models      # some parts (--list shows them)
    python -m benchmarks.gpu_check --out DIR --dry-run                # without a GPU: order and format, times made up

needs python with torch, triton, transformers and pytest, a C compiler for Triton's launchers, and no network. DIR gets

    results.jsonl   a line for each case, written when it is done: what happens later, it is there
    log.txt         what the child processes printed
    summary.txt     the last 40 lines that are printed: failures, figures, goals

`python -m benchmarks.gpu_report DIR/results.jsonl` makes tables of it. gpu_plan.py has the parts, gpu_runner.py how
they are run.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_runner import HANDED_OVER, Part, Results, run_parts

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 480.0
DRY_PATIENCE = 5.0
"""How many times as long a dry run may take."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): a child doesn't outlive the process that started it."""
UNDER_A_TOOL = ("ncu", "memcheck")
"""Parts whose children are started by another program, from a thread that may end long before it does."""


def environment(part: Part, dry: bool) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "TRITON_INTERPRET": None}
    env = {
        name: value for name, value in {**os.environ, **own, **part.environment}.items() if value is not None
    }
    if dry and part.interpreted:
        env["TRITON_INTERPRET"] = "1"
    return env


def for_a_dry_run(part: Part) -> Part:
    """The part without a tool around its cases, for a machine that has no GPU to look into, and is no match for it."""
    slow = replace(part, seconds=DRY_PATIENCE * part.seconds, case_seconds=DRY_PATIENCE * part.case_seconds)
    return slow if part.name == "tests" else replace(slow, command=Part.command, read=None)


class Children:
    """Starts a part's children: this command again, with a tool around it where the part has one."""

    def __init__(self, results: Path, dry: bool) -> None:
        self._results, self._dry = results, dry

    def __call__(self, part: Part, cases: Sequence[str], until: float, output: Path) -> subprocess.Popen[Any]:
        own = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(self._results)]
        own += ["--until", str(until), *(["--dry-run"] if self._dry else [])]
        own += ["--child", part.name, *cases]
        command = part.command(own, cases)
        with output.open("w", encoding="utf-8") as stream:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment(part, self._dry),
                preexec_fn=os.setpgrp,  # so that all of it can be ended; not a session, which would outlive ours
            )


def child(part: str, cases: Sequence[str], results: Results, until: float, dry: bool) -> int:
    """Do cases until the time is up. A broken context of the GPU ends it: another child goes on."""
    from benchmarks.gpu_measure import Context, one_line, synchronize
    from benchmarks.gpu_plan import WORK
    from benchmarks.gpu_tools import MARK

    for case in cases:
        left = until - time.time()
        if left <= 0:
            break
        print(f"{MARK}{case}", flush=True)
        begin, context = time.time(), Context(dry, seconds=min(8.0, left / 3))
        found: dict[str, Any] = {"dry_run": True} if dry else {}
        try:
            found |= WORK[part](case, context, until)
        except Exception as error:
            traceback.print_exc()
            found["error"] = one_line(error)
        if context.errors:
            found["errors"] = context.errors
        found["seconds"] = round(time.time() - begin, 2)
        results.add(part, case, found)
        if "error" in found:
            try:
                synchronize(context)
            except Exception as error:
                print(f"the GPU's context is broken: {one_line(error)}", flush=True)
                return HANDED_OVER
    return 0


def parsed() -> argparse.Namespace:
    from benchmarks.gpu_plan import PARTS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for results, new or without results.jsonl"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, in their usual order")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU; every time is made up")
    parser.add_argument("--commit", help="to write down, where git can't tell it: of a copy of the files")
    parser.add_argument("--list", action="store_true", help="the parts and the time of each")
    parser.add_argument("--seconds", type=float, help=f"for all of it; {SECONDS:g} by default")
    parser.add_argument("--child", nargs="+", metavar="PART", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.list:
        for part in PARTS:
            beside = " (beside the others)" if part.beside else ""
            print(f"{part.name:10}{part.seconds:5.0f} s  {part.about}{beside}")
        sys.exit()
    if chosen.out is None:
        parser.error("the following arguments are required: --out")
    names = [part.name for part in PARTS]
    if unknown := sorted(set(chosen.only or ()) - set(names)):
        parser.error(f"--only: no part {', '.join(unknown)}; there are {', '.join(names)}")
    chosen.seconds = chosen.seconds or SECONDS * (DRY_PATIENCE if chosen.dry_run else 1.0)
    if not chosen.child:
        if (chosen.out / "results.jsonl").exists():
            parser.error(f"{chosen.out} holds the results of another run")
        if not chosen.dry_run and not gpu_found():
            parser.error("there is no CUDA GPU here (--dry-run shows what would be done)")
    return chosen


def gpu_found() -> bool:
    """Asked of the driver, since to import torch takes seconds that the GPU would wait for."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return False
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def stopped(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    chosen, started = parsed(), time.time()
    if chosen.child:
        part, *cases = chosen.child
        if part not in UNDER_A_TOOL:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        sys.exit(child(part, cases, Results(chosen.out), chosen.until, chosen.dry_run))
    from benchmarks.gpu_plan import PARTS
    from benchmarks.gpu_report import failures, summary

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stopped)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.out.resolve() / "results.jsonl")
    asked = {"seconds_allowed": chosen.seconds, "commit": chosen.commit, "argv": sys.argv[1:]}
    results.add("run", "command", asked | {"dry_run": chosen.dry_run})
    parts = [part for part in PARTS if chosen.only is None or part.name in chosen.only]
    if chosen.dry_run:
        parts = [for_a_dry_run(part) for part in parts]

    def say(text: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {text}", flush=True)

    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            start = Children(results.path, chosen.dry_run)
            run_parts(
                parts, started + chosen.seconds, results, start, Path(folder), dry=chosen.dry_run, say=say
            )
    finally:
        text = summary(results.read())
        with contextlib.suppress(OSError):
            (chosen.out / "summary.txt").write_text(text, encoding="utf-8")
        print(text, flush=True)
    if failures(results.read()):
        sys.exit(1)


if __name__ == "__main__":
    main()
