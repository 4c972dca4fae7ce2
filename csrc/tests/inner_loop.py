"""Checks the machine code of micro-kernels: the inner loop multiplies and loads, and never stores.

Compilers differ in whether all sums of a tile stay in registers. One that spills a sum stores it in every step of K.
One that doesn't inline the step keeps all sums in memory. No result shows that, only the machine code and a clock.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    objdump: str
    multiply_add: re.Pattern[str]
    store: re.Pattern[str]
    branch: re.Pattern[str]
    """A jump that may be a loop's last instruction, and where to."""


MACHINES = {
    "aarch64": Machine(
        "aarch64-linux-gnu-objdump",
        re.compile(r"(fmla|sdot|smmla|bfmmla|sadalp)\b"),
        re.compile(r"st[a-z0-9]*\b"),
        re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, \S+,)\s*([0-9a-f]+)\b"),
    ),
    "x86_64": Machine(
        "objdump",
        re.compile(r"(?:\{vex\}\s+)?(vfmadd\w+ps|vpmaddwd|vpdpbusd|vdpbf16ps)\b"),
        re.compile(r"(vmov\w+\s+%\w+,\S*\(|call\b)"),
        re.compile(r"j[a-z]+\s+([0-9a-f]+)\b"),
    ),
}

# What multiplies in the largest tiles of a build, as objdump prints its name, and multiply-adds in a step.
ARM_TILES = {
    "csrc/isa/neon.cpp": ["Lanes<Float32>", "Lanes<Bfloat16>", "Pairs"],
    "csrc/isa/neon_dotprod.cpp": ["Lanes<Float32>", "Lanes<Bfloat16>", "Lanes<Int8>"],
    "csrc/isa/neon_i8mm.cpp": ["Lanes<Float32>", "Mmla<MmlaBfloat16>", "Mmla<MmlaInt8>"],
}
WIDE_TILES = [("Float32, 8, 3", 24), ("Int8, 8, 3", 24)]
VECTOR_TILES = {
    "csrc/isa/avx2.cpp": [("Float32, 4, 3", 12), ("Bfloat16, 6, 2", 24), ("Int8, 3, 3", 9)],
    "csrc/isa/avx2_vnni.cpp": [("Float32, 4, 3", 12), ("Bfloat16, 6, 2", 24), ("Int8, 4, 3", 12)],
    "csrc/isa/avx512.cpp": [*WIDE_TILES, ("Bfloat16, 8, 3", 48)],
    "csrc/isa/avx512_vnni.cpp": [*WIDE_TILES, ("Bfloat16, 8, 3", 48)],
    "csrc/isa/avx512_bf16.cpp": [*WIDE_TILES, ("Bfloat16, 8, 3", 24)],
}


def expected_of(machine: str) -> list[tuple[str, str, int]]:
    """(source, function, multiply-adds in a step) of each tile that is checked. `machine`: of MACHINES."""
    if machine == "aarch64":
        return [
            (source, f" interleaved_tile<{unit}, 8, 3, false>", 24)
            for source, units in ARM_TILES.items()
            for unit in units
        ]
    return [
        (source, f" tile<{tile}, {fetch}>", count)
        for source, of_build in VECTOR_TILES.items()
        for tile, count in of_build
        for fetch in ("false", "true")
    ]


@lru_cache(maxsize=1)  # one file's tiles follow each other
def listing_of(machine: Machine, object_file: Path) -> list[str]:
    command = [machine.objdump, "--disassemble", "--demangle", "--no-show-raw-insn", str(object_file)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return listing.replace("(anonymous namespace)::", "").splitlines()


def instructions(machine: Machine, object_file: Path, function: str) -> list[tuple[int, str]]:
    """(address, text) of each instruction of the one function whose demangled name contains `function`."""
    bodies: dict[str, list[tuple[int, str]]] = {}
    current = ""
    for line in listing_of(machine, object_file):
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            current = header[1]
        elif (entry := re.match(r"\s+([0-9a-f]+):\s+(.+)$", line)) and function in current:
            bodies.setdefault(current, []).append((int(entry[1], 16), entry[2]))
    if len(bodies) != 1:
        sys.exit(f"{object_file}: {len(bodies)} functions named {function}, expected one")
    return next(iter(bodies.values()))


def inner_loop(machine: Machine, body: list[tuple[int, str]]) -> list[str]:
    """The loop with most multiply-adds an instruction: a backward branch, and what it jumps over."""
    loops = []
    for address, text in body:
        branch = machine.branch.match(text)
        if branch and int(branch[1], 16) < address:
            loops.append([t for a, t in body if int(branch[1], 16) <= a <= address])
    return max(loops, key=lambda loop: (count(machine.multiply_add, loop) / len(loop), len(loop)), default=[])


def count(pattern: re.Pattern[str], loop: list[str]) -> int:
    return sum(bool(pattern.match(text)) for text in loop)


def check(machine_name: str, object_file: Path, function: str, multiply_adds: int) -> None:
    """Exit with the loop printed unless one step of it does `multiply_adds` (or a multiple) and no store."""
    machine = MACHINES[machine_name]
    loop = inner_loop(machine, instructions(machine, object_file, function))
    found, stores = count(machine.multiply_add, loop), count(machine.store, loop)
    summary = (
        f"{function}: {len(loop)} instructions in the inner loop, {found} multiply-adds, {stores} stores"
    )
    if found == 0 or found % multiply_adds or stores:
        sys.exit("\n".join([*loop, f"{summary}; expected {multiply_adds} and 0"]))
    print(f"{object_file.stem}:{summary}")
