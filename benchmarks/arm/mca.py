"""What LLVM's model of a core says of a stretch of code that runs again and again.

llvm-mca simulates decoding, renaming, waiting for operands and units, and retiring. All loads hit the first-level
cache, all branches are predicted, code is fetched without delay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.arm.tools import MCA, output_of

ITERATIONS = 200
# What it can't take or models as something else: calls and returns, x86's long nops, and copies by one instruction,
# each byte of which the emulator counts.
LEFT_OUT = re.compile(
    r"(bl|blr|br|b|brk|udf)\b(?!\.)|ret|call|jmp|notrack|nop|data16|cs |hlt|ud2|syscall|rep |\."
)
TARGET = re.compile(
    r"(?P<jump>(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, \S+,|j\w+)\s*)[0-9a-f]+$|(?P<adrp>adrp?\s+\w+, )[0-9a-f]+$"
)
STORE_THEN_ADD = re.compile(r"(?P<store>st\w+\s+.+, \[(?P<base>\w+)\]), #(?P<step>-?\w+)$")
ADD_THEN_STORE = re.compile(r"(?P<store>st\w+\s+.+, \[(?P<base>\w+)), #(?P<step>-?\w+)\]!$")


@dataclass(frozen=True)
class Modelled:
    cycles: float
    """Of one run of the code, among many."""
    instructions: int
    bottlenecks: tuple[str, ...]
    """Units that are busy nine cycles in ten or more."""


def source_of(texts: Sequence[str]) -> str:
    """Instructions as objdump prints them, as an assembler takes them. Jumps go to where the code begins.

    A store that steps its address on becomes a store and an addition. As one instruction, the model would let the
    address wait for what is stored, and the next round of a loop with it; cores don't.
    """
    lines: list[str] = []
    for text in texts:
        if LEFT_OUT.match(text):
            continue
        if after := STORE_THEN_ADD.match(text):
            lines += [after["store"], "add {base}, {base}, #{step}".format(**after.groupdict())]
        elif before := ADD_THEN_STORE.match(text):
            lines += ["add {base}, {base}, #{step}".format(**before.groupdict()), before["store"] + "]"]
        else:
            lines.append(TARGET.sub(lambda m: f"{m['jump'] or m['adrp']}.Lcode", text))
    return "\n".join(lines)


def arguments_of(machine: str, cpu: str, features: str) -> list[str]:
    return [MCA, f"-mtriple={machine}", f"-mcpu={cpu}", *([f"-mattr={features}"] if features else [])]


def model(codes: Sequence[Sequence[str]], command: Sequence[str]) -> tuple[list[Modelled], str]:
    """What the core makes of each of `codes`; and whose units LLVM gives it, by the names that they have."""
    regions = [".Lcode:"]
    for number, texts in enumerate(codes):
        regions += [f"# LLVM-MCA-BEGIN {number}", source_of(texts), f"# LLVM-MCA-END {number}"]
    options = [f"-iterations={ITERATIONS}", "-json", "-skip-unsupported-instructions=parse-failure"]
    return read(json.loads(output_of([*command, *options], "\n".join(regions) + "\n")), len(codes))


def read(answer: dict[str, Any], count: int) -> tuple[list[Modelled], str]:
    """The JSON of llvm-mca, in the order of the regions' numbers; an empty one is none of its regions."""
    resources = [re.sub(r"\W.*", "", name) for name in answer["TargetInfo"]["Resources"]]
    found = [Modelled(0.0, 0, ())] * count
    for region in answer["CodeRegions"]:
        summary = region["SummaryView"]
        cycles = summary["TotalCycles"] / summary["Iterations"]
        total = len(region["Instructions"])
        busy = {
            each["ResourceIndex"]: each["ResourceUsage"]
            for each in region["ResourcePressureView"]["ResourcePressureInfo"]
            if each["InstructionIndex"] == total
        }
        units = tuple(sorted({resources[i] for i, usage in busy.items() if usage >= 0.9 * cycles}))
        found[int(region["Name"])] = Modelled(cycles, total, units)
    return found, units_of(resources)


def units_of(resources: Sequence[str]) -> str:
    """The core that a model was made for, by the names of its units: `A57UnitB`, `CortexA510UnitALU0`."""
    return re.sub(r"^Cortex|(?:Unit|AGU|ALU|FP|Int).*$", "", resources[0])
