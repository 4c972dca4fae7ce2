"""Reads a kernel's machine code: which registers its instructions touch, and whether one of them disturbs a tensor
core at work.

On compute capability 9 a `wgmma` (HGMMA in machine code, IGMMA for integers) is asynchronous: it reads its operand A,
where that is in registers, and updates its sums long after the next instructions run. Only a wait, WARPGROUP.DEPBAR,
gives those registers back. To keep everyone else away from them until then is the assembler's task, and some
releases of ptxas fail at it (docs/gpu_kernels.md, "Which assembler"): the product is silently wrong, now and then.
No GPU is needed to see it, because it stands in the code:

    HGMMA R56, R152, gdesc[UR8], R56, gsb0     reads R152 to R155, from now on
    F2FP R152, R3, R2                          writes R152: too early
    WARPGROUP.DEPBAR.LE gsb0, 0x0              from here on R152 is free

`disturbed` follows every path through the code and finds all such pairs. What an instruction reads and writes is taken
from nvdisasm's table of life ranges, not guessed from its text.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MARKS = {"^": (False, True), "v": (True, False), "x": (True, True)}
"""What nvdisasm's table calls a definition, a use and both, as (reads, writes)."""
WAIT = "WARPGROUP.DEPBAR"
DEEPEST = 16
"""Groups of products in flight that are told apart; older ones are taken together."""


@dataclass(frozen=True)
class Instruction:
    """address: bytes from the kernel's start. text: with its predicate. reads, writes: numbers of registers."""

    address: int
    text: str
    reads: frozenset[int]
    writes: frozenset[int]

    @property
    def name(self) -> str:
        """With its modifiers, without the predicate: "LDS.128"."""
        return re.sub(r"^@\S+\s+", "", self.text).split()[0]

    @property
    def is_product(self) -> bool:
        """Whether a group of warps multiplies here."""
        return re.match(r"[A-Z]GMMA\b", self.name) is not None

    @property
    def operand(self) -> frozenset[int]:
        """A product's operand A, where it is in registers."""
        return self.reads - self.writes


@dataclass(frozen=True)
class Code:
    """A kernel's instructions, which of them its labels stand before, and whether what they touch is known."""

    instructions: list[Instruction]
    labels: dict[str, int]
    live: bool

    def count(self, pattern: str) -> int:
        """How many instructions have such a name."""
        return sum(re.match(pattern, one.name) is not None for one in self.instructions)


class Clash(NamedTuple):
    """An instruction that touches registers of a product still in flight."""

    product: Instruction
    by: Instruction
    registers: frozenset[int]


def disassembled(cubin: Path, nvdisasm: str, live: bool = True) -> Code:
    """The code of a file that holds one kernel. live: with what each instruction reads and writes."""
    command = [nvdisasm, "-c", *(["-plr", "-lrm", "narrow"] if live else []), str(cubin)]
    return read(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def read(listing: str) -> Code:
    """What nvdisasm -c prints, or with a table of life ranges nvdisasm -c -plr -lrm narrow."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    first = 0  # column of R0 in the table
    for line in listing.splitlines():
        code, _, table = line.partition("//")
        if header := re.match(r" \|\s*#\s+(?=0)", table):
            first = header.end()
        elif label := re.match(r"([^\s:]+):\s*$", code):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s+/\*([0-9a-f]+)\*/\s+(.+?)\s*;", code):
            registers = table[first:].partition(" |")[0] if first else ""
            marked = [(number, *MARKS[mark]) for number, mark in enumerate(registers) if mark in MARKS]
            reads, writes = (frozenset(row[0] for row in marked if row[i]) for i in (1, 2))
            instructions.append(Instruction(int(found[1], 16), found[2], reads, writes))
    return Code(instructions, labels, live=first > 0)


def successors(code: Code, at: int) -> list[int]:
    """Which instructions may run after this one."""
    one = code.instructions[at]
    name = one.name.split(".")[0]
    conditional = one.text.startswith("@")
    following = [at + 1] if at + 1 < len(code.instructions) else []
    if name in ("EXIT", "RET"):
        return following if conditional else []
    if name in ("BRX", "BRXU", "JMP", "JMX", "JMXU"):
        raise ValueError(f"a jump to where no label says: {one.text}")
    if name not in ("BRA", "CALL"):
        return following
    target = re.search(r"`\((.+?)\)", one.text)
    if target is None or target[1] not in code.labels:
        raise ValueError(f"a jump to where no label says: {one.text}")
    # `BRA P1, TARGET` has a condition of its own; what is called comes back
    conditional = conditional or name == "CALL" or "," in one.text[: target.start()]
    return [code.labels[target[1]], *(following if conditional else [])]


# Products in flight, by the group that a wait counts: the one still open first, then the closed ones, newest first.
Flight = tuple[frozenset[int], ...]


def after(code: Code, at: int, flight: Flight) -> Flight:
    """What is in flight after an instruction."""
    one = code.instructions[at]
    if one.is_product:
        flight = (flight[0] | {at}, *flight[1:])
        if one.text.endswith("gsb0"):  # closes the group
            flight = (frozenset(), *flight)
    elif one.name.startswith(WAIT):
        wait = re.search(r"gsb0, 0x([0-9a-f]+)", one.text)
        if wait is None:
            raise ValueError(f"a wait of a form that isn't known: {one.text}")
        flight = flight[: int(wait[1], 16) + 1]
    if len(flight) > DEEPEST:
        flight = (*flight[: DEEPEST - 1], frozenset().union(*flight[DEEPEST - 1 :]))
    return flight


def joined(one: Flight, other: Flight) -> Flight:
    """What may be in flight where two paths meet."""
    none: frozenset[int] = frozenset()
    longest = max(len(one), len(other))
    pad = lambda flight: flight + (none,) * (longest - len(flight))  # noqa: E731
    return tuple(a | b for a, b in zip(pad(one), pad(other), strict=True))


def flights(code: Code) -> dict[int, Flight]:
    """What may be in flight before each instruction that can be reached."""
    if not code.live:
        raise ValueError("the listing doesn't say what instructions read and write")
    before: dict[int, Flight] = {0: (frozenset(),)}
    todo = [0]
    while todo:
        at = todo.pop()
        flight = after(code, at, before[at])
        for following in successors(code, at):
            met = joined(before[following], flight) if following in before else flight
            if before.get(following) != met:
                before[following] = met
                todo.append(following)
    return before


def clash(product: Instruction, by: Instruction) -> frozenset[int]:
    """Registers of a product in flight that an instruction mustn't touch and does."""
    found = by.writes & product.operand
    # the next product may go on with the same sums, in the same registers: tensor cores keep their order
    if not (by.is_product and by.writes == product.writes):
        found |= (by.reads | by.writes) & product.writes
    return found


def disturbed(code: Code) -> list[Clash]:
    """Every instruction that reads or writes a product's registers while the product may be in flight."""
    found = []
    for at, flight in sorted(flights(code).items()):
        for product in sorted(frozenset().union(*flight)):
            one, by = code.instructions[product], code.instructions[at]
            if registers := clash(one, by):
                found.append(Clash(one, by, registers))
    return found


def outliving(code: Code) -> set[int]:
    """Products with A in registers that may still be in flight after a wait.

    That is where ptxas has gone wrong. A kernel without any waits for all of them before it goes on, and that is safe.
    """
    found: set[int] = set()
    for at, flight in flights(code).items():
        if code.instructions[at].name.startswith(WAIT):
            found |= frozenset().union(*after(code, at, flight))
    return {product for product in found if code.instructions[product].operand}
