"""The programs that these commands run, and one line about the one that is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "csrc/tests"))

import run_tests

LLVM = 19
"""Whose models of cores are used: LLVM 14's have no Cortex-A510, Neoverse V1 or V2."""
MCA, MCA_PACKAGES = f"llvm-mca-{LLVM}", [f"llvm-{LLVM}"]
EMULATORS, EMULATOR_PACKAGES = {"aarch64": "qemu-aarch64", "x86_64": "qemu-x86_64"}, ["qemu-user"]
"""Debian's `qemu-user-static` takes no plugins."""


class ToolFailed(Exception):
    """What a tool said when it failed."""


def require(commands: Sequence[str], packages: Sequence[str]) -> None:
    """Install what is missing if that asks nobody; otherwise end with a line that names the packages."""
    run_tests.require("this benchmark", list(commands), list(packages))


def output_of(command: Sequence[str | Path], given: str | None = None) -> str:
    """Standard output. Raises ToolFailed with the first lines of standard error."""
    result = subprocess.run(
        [str(word) for word in command], input=given, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        said = " ".join(result.stderr.split("\n")[:4])
        raise ToolFailed(f"{Path(command[0]).name} failed with {result.returncode}: {said}")
    return result.stdout


def first_line(*command: str) -> str:
    """A tool's version, as it says it."""
    return output_of(command).splitlines()[0].strip()
