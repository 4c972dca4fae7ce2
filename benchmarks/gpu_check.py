"""Everything about the Triton kernels that needs a GPU: tests, memory checker, measurements. Under nine minutes.

    python -m benchmarks.gpu_check --out DIR        # make gpu-check
    python -m benchmarks.gpu_check --out DIR --section training    # all of that, nothing of inference
    python -m benchmarks.gpu_check --out DIR --dry-run

needs python with torch, triton, transformers, pytest and what the package itself imports; no installation, no compiler
but Triton's, no network. It writes results.json (all), results.md (tables) and, where matplotlib is installed, plots.

Measurements run in a process of their own, step by step in the order of their importance. Each step's result is
written when it is done; a step that fails, hangs or kills the GPU's context costs itself only: the next ones get a new
process. What no time was left for is told; a section alone should fit. A dry run does every step on the CPU, in
Triton's interpreter, on a tiny model, to show that the steps work; nothing is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

TESTS = ("tests/triton", "tests/test_training_devices.py")
TESTS_SECONDS = 170.0
SANITIZED = {
    "sanitizer": (
        "tests/triton/test_patch_kernels.py",
        "-k",
        "padding_mask or whole_model or operations or strided",
    ),
    "sanitizer_training": ("tests/triton/test_training_step.py",),
}
"""By step, what runs under the memory checker: forwards, and backwards."""
SANITIZER_SECONDS = 60.0
DRY_TESTS = ("tests/triton/test_patch_kernels.py", "-k", "probe")


def say(started: float, text: str) -> None:
    print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)


def run_logged(
    command: list[str], log: Path, seconds: float, env: dict[str, str] | None = None
) -> int | None:
    """The exit status, or None if it took longer than `seconds`; output goes to `log`."""
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            return process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            return None
        finally:
            stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End it, and the processes that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(dry: bool) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
    if dry:
        env["TRITON_INTERPRET"] = "1"
    else:
        env.pop("TRITON_INTERPRET", None)
    return env


def pytest_result(log: Path, status: int | None) -> dict[str, Any]:
    """What pytest said last, and which tests failed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    counts = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", text[-2000:])
    }
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    return {
        "status": status,
        "timed_out": status is None,
        "counts": counts,
        "failed": failed[:50],
        "log": log.name,
    }


def tests(out: Path, dry: bool, seconds: float) -> dict[str, Any]:
    """The kernels' and patched models' tests on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(DRY_TESTS if dry else TESTS)]
    if importlib.util.find_spec("xdist") and not dry:  # most of the time goes into compiling
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    log = out / "tests.log"
    return pytest_result(log, run_logged(command, log, seconds, environment(dry)))


def sanitizer(name: str, out: Path, dry: bool, seconds: float) -> dict[str, Any]:
    """A few tests under compute-sanitizer's memcheck, where it is installed."""
    tool = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
    if tool is None or dry:
        return {"skipped": "a dry run has no GPU" if dry else "compute-sanitizer is not installed"}
    log = out / f"{name}.log"
    # without PyTorch's cache of memory, a read past a tensor is a read past an allocation
    env = environment(dry) | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [
        tool,
        "--tool",
        "memcheck",
        "--error-exitcode",
        "9",
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *SANITIZED[name],
    ]
    status = run_logged([*command, "-p", "no:cacheprovider"], log, seconds, env)
    text = log.read_text(encoding="utf-8", errors="replace")
    summary = re.findall(r"ERROR SUMMARY: .*", text)
    return {
        **pytest_result(log, status),
        "summary": summary[-1] if summary else "no summary: it didn't finish",
    }


def measure(
    names: list[str],
    limits: dict[str, float],
    out: Path,
    until: float,
    started: float,
    start: Callable[[list[str]], subprocess.Popen[Any]],
) -> None:
    """Steps in processes, made by `start`, that last as long as they can. Results are files in out/steps."""
    left = list(names)
    while left and time.monotonic() < until:
        left = watch(start(left), left, limits, out / "steps", until, started)
    for name in left:
        write(out / "steps" / f"{name}.json", {"error": "not run: no time was left"})


def start_child(names: list[str], out: Path, dry: bool) -> subprocess.Popen[Any]:
    """A process that runs these steps one after the other."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(out), "--child", *names]
    with (out / "measure.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, *(["--dry-run"] if dry else [])],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(dry),
            start_new_session=True,
        )


def watch(
    child: subprocess.Popen[Any],
    left: list[str],
    limits: dict[str, float],
    folder: Path,
    until: float,
    started: float,
) -> list[str]:
    """Until the child ends or must be ended; the steps that are still to do."""
    left, since = list(left), time.monotonic()
    while left:
        if (folder / f"{left[0]}.json").exists():
            result = json.loads((folder / f"{left[0]}.json").read_text(encoding="utf-8"))
            say(started, f"{left[0]}: {result.get('error') or 'done'}")
            left, since = left[1:], time.monotonic()
            continue
        now, ended = time.monotonic(), child.poll()
        if ended is not None and (folder / f"{left[0]}.json").exists():
            continue
        limit = min(limits[left[0]], until - since)
        if ended is None and now - since <= limit:
            time.sleep(0.1)
            continue
        why = f"ended with status {ended}" if ended is not None else f"took longer than {limit:.0f} s"
        write(folder / f"{left[0]}.json", {"error": f"the process {why}; see measure.log"})
        say(started, f"{left[0]}: the process {why}")
        left = left[1:]
        break
    stop(child)
    return left


def child(names: list[str], out: Path, dry: bool) -> None:
    """Run steps, each result written whole when it is there."""
    from benchmarks.gpu_plan import run_step
    from benchmarks.gpu_steps import one_line

    for name in names:
        print(f"== {name}", flush=True)
        try:
            result = run_step(name, dry)
        except Exception as error:
            import traceback

            traceback.print_exc()
            result = {"error": one_line(error)}
        write(out / "steps" / f"{name}.json", result)


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for results, new or empty"
    )
    parser.add_argument("--dry-run", action="store_true", help="every step on the CPU, tiny and untimed")
    parser.add_argument("--seconds", type=float, default=520.0, help="for all of it; %(default)s by default")
    parser.add_argument("--section", choices=("inference", "training"), help="only the steps of this subject")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="only these; tests are a step too")
    parser.add_argument("--child", nargs="+", metavar="NAME", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.out, chosen.dry_run)
        return
    started = time.monotonic()
    chosen.out = chosen.out.resolve()
    (chosen.out / "steps").mkdir(parents=True, exist_ok=True)
    if any((chosen.out / "steps").iterdir()):
        parser.error(f"{chosen.out} holds the results of another run")

    import torch

    if not chosen.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU here (--dry-run shows that the steps work)")

    from benchmarks.gpu_plan import SECTIONS, STEPS
    from benchmarks.gpu_report import report, unmet

    known = ["tests", *SANITIZED, *STEPS]
    wanted = chosen.steps or (list(SECTIONS[chosen.section]) if chosen.section else known)
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(known)}")
    until = started + chosen.seconds
    results: dict[str, Any] = {"dry_run": chosen.dry_run}

    def save() -> None:
        for path in sorted((chosen.out / "steps").glob("*.json")):
            results[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        write(chosen.out / "results.json", results)

    before = {"tests": (tests, TESTS_SECONDS)}
    before |= {name: (partial(sanitizer, name), SANITIZER_SECONDS) for name in SANITIZED}
    for name, (run, seconds) in before.items():
        if name in wanted:
            say(started, name)
            try:
                results[name] = run(chosen.out, chosen.dry_run, min(seconds, until - time.monotonic()))
            except OSError as error:
                results[name] = {"error": str(error)}
            say(started, f"{name}: {json.dumps({k: v for k, v in results[name].items() if k != 'failed'})}")
            save()
    names = [name for name in STEPS if name in wanted]
    limits = {name: limit for name, (_, limit) in STEPS.items()}
    start = partial(start_child, out=chosen.out, dry=chosen.dry_run)
    measure(names, limits, chosen.out, until, started, start)
    save()
    text = report(results, chosen.out)
    (chosen.out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    say(started, f"wrote {chosen.out / 'results.json'} and results.md")
    if problems := unmet(results):
        sys.exit("\n".join(["not as it should be:", *problems]))


if __name__ == "__main__":
    main()
