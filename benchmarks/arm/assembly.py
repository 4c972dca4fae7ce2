"""Machine code as objdump lists it: functions, their loops, and how often each stretch ran.

A *block* here is what runs from its first instruction to its last each time. It ends with a branch, or where the next
instruction ran another number of times.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.arm.tools import output_of

# Of AArch64 and x86-64. What follows it isn't reached, or not always.
BRANCH = re.compile(
    r"(?:b|br|bl|blr|ret|b\.\w+|cbn?z|tbn?z|brk|udf|(?:notrack )?j\w+|call|retq?|ud2|hlt|syscall)\b"
)
JUMP_BACK = re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, \S+,|j\w+)\s*([0-9a-f]+)\b")


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str
    function: str


@dataclass(frozen=True)
class Block:
    function: str
    texts: tuple[str, ...]
    runs: int
    """How often it ran."""

    @property
    def executed(self) -> int:
        return self.runs * len(self.texts)


@dataclass
class Listing:
    """A program or object file in the order of addresses."""

    instructions: list[Instruction]
    addresses: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = [one.address for one in self.instructions]

    def executed(self, stretches: Iterable[tuple[int, int, int]]) -> list[int]:
        """How often each instruction ran. stretches: the addresses of a first and last instruction, and how often."""
        changes = [0] * (len(self.instructions) + 1)
        for first, last, runs in stretches:
            begin, end = bisect_left(self.addresses, first), bisect_left(self.addresses, last)
            if self.addresses[begin : begin + 1] != [first] or self.addresses[end : end + 1] != [last]:
                continue  # not the program's own code: what the emulator gives every process
            changes[begin] += runs
            changes[end + 1] -= runs
        counts, now = [], 0
        for change in changes[:-1]:
            now += change
            counts.append(now)
        return counts

    def blocks(self, counts: list[int]) -> list[Block]:
        """Those that ran."""
        found: list[Block] = []
        texts: list[str] = []
        for i, one in enumerate(self.instructions):
            if counts[i]:
                texts.append(one.text)
            following = self.instructions[i + 1] if i + 1 < len(self.instructions) else None
            if texts and (
                following is None
                or counts[i + 1] != counts[i]
                or following.function != one.function
                or BRANCH.match(one.text)
            ):
                found.append(Block(one.function, tuple(texts), counts[i]))
                texts = []
        return found

    def loops_of(self, function: str) -> list[list[str]]:
        """The innermost loops of the one function whose name contains `function`: what a branch back jumps over."""
        names = {one.function for one in self.instructions if function in one.function}
        if len(names) != 1:
            raise ValueError(f"{len(names)} functions are named {function}, expected one")
        body = [one for one in self.instructions if one.function in names]
        found: list[tuple[int, int]] = []
        for one in body:
            branch = JUMP_BACK.match(one.text)
            if branch and body[0].address <= int(branch[1], 16) <= one.address:
                found.append((int(branch[1], 16), one.address))
        innermost = [
            (a, b) for a, b in found if not any((a, b) != (c, d) and a <= c and d <= b for c, d in found)
        ]
        return [[one.text for one in body if a <= one.address <= b] for a, b in innermost]


def plain(name: str) -> str:
    """A function's name without what every kernel's has: namespaces, parameters."""
    name = re.sub(r"\(anonymous namespace\)::|squeezebert::", "", name)
    return re.sub(r"^(?:void|\w+(?: const)?\*?) (?=\w+(?:<|::|\())|(?<!operator)\(.*$", "", name)


def read(listing: str) -> Listing:
    """What `objdump --disassemble --demangle --no-show-raw-insn` prints."""
    instructions, function = [], ""
    for line in listing.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            function = header[1]
        elif entry := re.match(r"\s+([0-9a-f]+):\s+(\S.*)$", line):
            text = re.sub(r"\s*(?:<.*|//.*|#.*(?<=\s)0x.*)$", "", entry[2]).strip()
            instructions.append(Instruction(int(entry[1], 16), text, function))
    return Listing(instructions)


def disassembled(path: Path, machine: str) -> Listing:
    objdump = {"aarch64": "aarch64-linux-gnu-objdump", "x86_64": "objdump"}[machine]
    return read(output_of([objdump, "--disassemble", "--demangle", "--no-show-raw-insn", path]))
