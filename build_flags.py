"""How the C++ under csrc/ is compiled: which files, with which flags, as csrc/build.ini lists them.

For setup.py and csrc/tests/run_tests.py alike, so that the tests run what is shipped. It needs the standard
library alone, since pip's isolated build imports it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def _sections() -> dict[str, list[str]]:
    """The words of csrc/build.ini by section, which cmake/build_ini.cmake reads in the same way."""
    sections: dict[str, list[str]] = {}
    words: list[str] = []
    for line in (ROOT / "csrc/build.ini").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = sections[line.strip("[]")] = []
        elif not line.startswith("#"):
            words.extend(line.split())
    return sections


_SECTIONS = _sections()


def _flags_by_build(machine: str) -> dict[str, list[str]]:
    of_machine = f"flags {machine} "
    return {
        name.removeprefix(of_machine): words
        for name, words in _SECTIONS.items()
        if name.startswith(of_machine)
    }


CORE_SOURCES = [*_SECTIONS["sources core"], *_SECTIONS["sources core of operations"]]
PYTHON_SOURCES = _SECTIONS["sources python"]
RUNTIME_SOURCES = _SECTIONS["sources runtime"]
_TABLE = (ROOT / "csrc/isa/builds.inc").read_text(encoding="utf-8")
BUILDS = list(dict.fromkeys(re.findall(r"^BUILD\((\w+),", _TABLE, re.MULTILINE)))  # a build may have two rows
INSTRUCTION_SET_SOURCES = [f"csrc/isa/{build}.cpp" for build in BUILDS]

COMMON_FLAGS = _SECTIONS["flags common"]
KERNEL_FLAGS = _SECTIONS["flags kernels"]
GCC_KERNEL_FLAGS = _SECTIONS["flags kernels by gcc"]
X86_FLAGS = _flags_by_build("x86_64")
AARCH64_FLAGS = _flags_by_build("aarch64")

LINUX_LIBRARIES = _SECTIONS["libraries linux"]


def is_x86_64(machine: str) -> bool:
    """Whether `machine`, as platform.machine() names it, takes X86_FLAGS."""
    return machine.lower() in ("x86_64", "amd64")


def is_aarch64(machine: str) -> bool:
    """Whether `machine`, as platform.machine() names it, takes AARCH64_FLAGS."""
    return machine.lower() in ("aarch64", "arm64")


@lru_cache
def is_gcc(compiler: str) -> bool:
    """Whether the command `compiler` takes GCC's flags: anything does that doesn't call itself Clang."""
    command = [*shlex.split(compiler), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=False)
    return "clang" not in version.stdout


@lru_cache
def known(flags: tuple[str, ...], compiler: str) -> list[str]:
    """`flags`, or none where `compiler` doesn't know them all."""
    command = [*shlex.split(compiler), *flags, "-E", "-x", "c++", os.devnull]
    return list(flags) if subprocess.run(command, capture_output=True, check=False).returncode == 0 else []


def flags(source: str, machine: str, compiler: str) -> list[str]:
    """Every flag that says how `compiler` makes the file `source` for `machine`.

    `compiler` is a command as a shell takes it: `ccache g++` has two words. A file of csrc/isa/ whose instruction set
    the compiler doesn't know gets none of its flags, and is empty then.
    """
    path = Path(source)
    if path.parent.name != "isa":
        return COMMON_FLAGS
    of_compiler = GCC_KERNEL_FLAGS if is_gcc(compiler) else []
    table = X86_FLAGS if is_x86_64(machine) else AARCH64_FLAGS if is_aarch64(machine) else {}
    return COMMON_FLAGS + KERNEL_FLAGS + of_compiler + known(tuple(table.get(path.stem, ())), compiler)
