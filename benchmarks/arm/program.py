"""`forward.cpp`, linked with the objects that the C++ tests compile, and how often each of its instructions runs."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import build_flags
from benchmarks.arm import assembly
from benchmarks.arm.tools import EMULATOR_PACKAGES, EMULATORS, output_of, require, run_tests

HERE = Path(__file__).parent
FOLDER = build_flags.ROOT / "build" / "arm_bench"
COMPILERS = {"aarch64": run_tests.ARM_COMPILER, "x86_64": os.environ.get("CXX", "g++")}
NAMES = {"aarch64": "aarch64", "x86_64": f"x86_64-{Path(COMPILERS['x86_64']).name}"}
"""Of the folders that csrc/tests/run_tests.py compiles into."""
CPUS = {"neon": "cortex-a72", "neon_dotprod": "cortex-a76", "neon_i8mm": "max,sve=off", "avx2": "max"}
"""The builds that are counted, and the emulated CPU that each runs on: without SVE, which the C library would use."""
ARM_BUILDS = tuple(build for build in CPUS if build.startswith("neon"))
TOKENS, FEW_TOKENS = 128, 32
"""Of the projection, and of the count that tests hold: `bfmmla` is slow to emulate."""


@dataclass(frozen=True)
class Program:
    machine: str
    path: Path
    listing: assembly.Listing

    def timed(self, build: str, precision: str, tokens: int, layers: int, forwards: int) -> dict[str, float]:
        """What it prints with a clock, on this machine itself."""
        words = [build, precision, tokens, layers, forwards, "clock"]
        return json.loads(output_of([self.path, *map(str, words)]))

    def counted(self, build: str, precision: str, tokens: int = TOKENS) -> Counts:
        """One layer's forward: what two forwards run and one doesn't."""
        counts = [self._emulated(build, precision, tokens, forwards) for forwards in (1, 2)]
        of_one = [second - first for first, second in zip(*(each.executed for each in counts), strict=True)]
        return Counts(of_one, counts[0].packed_bytes)

    def _emulated(self, build: str, precision: str, tokens: int, forwards: int) -> Counts:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "blocks"
            emulator = [EMULATORS[self.machine], "-cpu", CPUS[build], "-plugin", f"{plugin()},out={found}"]
            command = [*emulator, self.path, build, precision, str(tokens), "1", str(forwards)]
            said = json.loads(output_of(command))
            lines = [line.split() for line in found.read_text().splitlines()]
        stretches = [(int(first, 16), int(last, 16), int(runs)) for first, last, runs in lines]
        return Counts(self.listing.executed(stretches), said["packed_bytes"])


@dataclass(frozen=True)
class Counts:
    executed: list[int]
    """Of each instruction of the program."""
    packed_bytes: int
    """Of one layer's packed weights."""


def objects(machine: str) -> run_tests.Variant:
    """What csrc/tests/run_tests.py compiles for `machine`, brought up to date."""
    require([COMPILERS[machine]], run_tests.ARM_PACKAGES if machine == "aarch64" else ["g++"])
    variant = run_tests.Variant(NAMES[machine], COMPILERS[machine], machine)
    run_tests.build(variant)
    return variant


def program(machine: str) -> Program:
    """The program for `machine`, linked statically, so that addresses are those of the file."""
    variant = objects(machine)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"forward-{machine}"
    sources = build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES
    command = [COMPILERS[machine], *build_flags.COMMON_FLAGS, "-static", "-no-pie", str(HERE / "forward.cpp")]
    command += [str(variant.object_of(source)) for source in sources]
    output_of([*command, "-o", str(path), *(f"-l{name}" for name in build_flags.LINUX_LIBRARIES)])
    return Program(machine, path, assembly.disassembled(path, machine))


def plugin() -> Path:
    require(list(EMULATORS.values()), EMULATOR_PACKAGES)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path, source = FOLDER / "count_blocks.so", HERE / "count_blocks.c"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        output_of(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(path)])
    return path
