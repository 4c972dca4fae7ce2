"""Tests the Python package on emulated AArch64 CPUs of three ages; an instruction that a CPU lacks ends in a signal.

    run.py                                     all of them: `make test-arm-python`
    run.py --cpu max -k bits                   pytest's arguments
    run.py --cpu cortex-a76 -- -m squeezebert_fast doctor          any other command of Python's

The environment and the build are kept in build/arm_python. Needs x86-64 Debian 12.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "csrc/tests"))

import environment
import package
from run_tests import require_arm_tools

ROOT = package.ROOT
FOLDER = ROOT / "build" / "arm_python"
# -P and `append`: the package is the one that was built, not the one that lies in the repository.
PYTEST = ["-P", "-m", "pytest", "--import-mode=append", "-p", "no:cacheprovider", "-q", "tests/arm"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", choices=environment.CPUS, action="append", help="all by default")
    chosen, arguments = parser.parse_known_args()
    require_arm_tools()
    python = environment.make(FOLDER / "environment")
    built = package.build(python, FOLDER)
    arguments = arguments[1:] if arguments[:1] == ["--"] else [*PYTEST, *arguments]
    cpus = chosen.cpu or list(environment.CPUS)

    def emulate(cpu: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*environment.command(python, cpu, built), *arguments],
            cwd=ROOT,
            env={**os.environ, "SQUEEZEBERT_TEST_CPU": cpu},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(cpus, pool.map(emulate, cpus), strict=True))
    for cpu, result in results.items():
        print(f"{cpu}:\n{result.stdout}", flush=True)
    if failed := [
        f"{cpu} ({result.returncode})" for cpu, result in results.items() if result.returncode != 0
    ]:
        sys.exit(f"failed on {', '.join(failed)}")


if __name__ == "__main__":
    main()
