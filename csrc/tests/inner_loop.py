"""Checks the machine code of an AArch64 micro-kernel: its inner loop multiplies and loads, and never stores.

Compilers differ in whether 24 vectors of sums stay in registers; one that spills them stores in every step
of K, and nothing but the machine code shows it where ARM is only emulated.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

OBJDUMP = "aarch64-linux-gnu-objdump"
MULTIPLY_ADD = re.compile(r"(fmla|sdot|smmla|bfmmla|sadalp)\b")
STORE = re.compile(r"st[a-z0-9]*\b")


def instructions(object_file: Path, function: str) -> list[tuple[int, str]]:
    """(address, text) of each instruction of the one function whose demangled name contains `function`."""
    command = [OBJDUMP, "--disassemble", "--demangle", "--no-show-raw-insn", str(object_file)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    bodies: dict[str, list[tuple[int, str]]] = {}
    current = ""
    for line in listing.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            current = header[1]
        elif (entry := re.match(r"\s+([0-9a-f]+):\s+(.+)$", line)) and function in current:
            bodies.setdefault(current, []).append((int(entry[1], 16), entry[2]))
    if len(bodies) != 1:
        sys.exit(f"{object_file}: {len(bodies)} functions named {function}, expected one")
    return next(iter(bodies.values()))


def inner_loop(body: list[tuple[int, str]]) -> list[str]:
    """The loop with most multiply-adds an instruction: a backward branch, and what it jumps over."""
    loops = []
    for address, text in body:
        branch = re.match(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, \S+,)\s*([0-9a-f]+)\b", text)
        if branch and int(branch[1], 16) < address:
            loops.append([t for a, t in body if int(branch[1], 16) <= a <= address])
    return max(loops, key=lambda loop: (count(MULTIPLY_ADD, loop) / len(loop), len(loop)), default=[])


def count(pattern: re.Pattern[str], loop: list[str]) -> int:
    return sum(bool(pattern.match(text)) for text in loop)


def check(object_file: Path, function: str, multiply_adds: int) -> None:
    """Exit with the loop printed unless one step of it does `multiply_adds` (or a multiple) and no store."""
    loop = inner_loop(instructions(object_file, function))
    found, stores = count(MULTIPLY_ADD, loop), count(STORE, loop)
    summary = (
        f"{function}: {len(loop)} instructions in the inner loop, {found} multiply-adds, {stores} stores"
    )
    if found == 0 or found % multiply_adds or stores:
        sys.exit("\n".join([*loop, f"{summary}; expected {multiply_adds} and 0"]))
    print(summary)
