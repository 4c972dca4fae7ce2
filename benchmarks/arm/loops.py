"""The inner loops of the ARM builds on LLVM's models of cores: no ARM hardware is asked, and none is needed.

    python -m benchmarks.arm.loops --out benchmarks/results/arm

cuts the loops out of the compiled objects, and prints how near llvm-mca sees them to each core's modelled peak: the
same multiply-adds alone, each waiting for nothing. It assumes that all data is in the first-level cache. A model that
LLVM borrows is marked with the core it was made for. The file has cycles, and which units are busy.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.arm import assembly, mca
from benchmarks.arm.cores import CORES
from benchmarks.arm.program import objects
from benchmarks.arm.report import commit, exit_with
from benchmarks.arm.tools import MCA, MCA_PACKAGES, require
from benchmarks.command import console

MULTIPLY_ADDS = {"fmla": 4, "smlal": 16, "sdot": 16, "smmla": 32, "bfmmla": 16}
"""Of one instruction on vectors of 16 bytes; smlal with the smull that it adds to (kernels/micro/pair_tile.h)."""
GOAL = 0.9
SPACE = "(anonymous namespace)::"


@dataclass(frozen=True)
class Loop:
    name: str
    build: str
    function: str
    instruction: str
    """Which multiplies, of MULTIPLY_ADDS."""
    values: int = 0
    """What an iteration makes, where multiply-adds aren't the measure: exponentials, values rounded."""

    def cut_from(self, listing: assembly.Listing) -> list[str]:
        """The innermost loop with most such instructions, and of those with as many the shortest."""
        loops = listing.loops_of(self.function)
        return max(loops, key=lambda loop: (self.multiplies(loop), -len(loop)))

    def multiplies(self, loop: list[str]) -> int:
        return sum(re.match(rf"{self.instruction}2?\b", text) is not None for text in loop)


def vector_tile(of: str, rows: int = 8, vectors: int = 3) -> str:
    return f" {SPACE}tile<{SPACE}{of}, {rows}, {vectors}, false>("


def interleaved_tile(unit: str, of: str) -> str:
    return f"{SPACE}interleaved_tile<{SPACE}{unit}<{SPACE}{of}>, 8, 3, false>("


LOOPS = (
    Loop("float32", "neon", interleaved_tile("Lanes", "Float32"), "fmla"),
    Loop("bfloat16, widened", "neon", interleaved_tile("Lanes", "Bfloat16"), "fmla"),
    Loop("int8, 16-bit products", "neon", f"{SPACE}interleaved_tile<{SPACE}Pairs, 8, 3, false>(", "smlal"),
    Loop("scores, float32", "neon", vector_tile("Float32"), "fmla"),
    Loop("values, float32", "neon", vector_tile("Float32", 6, 4), "fmla"),
    Loop("exponentials", "neon", f"{SPACE}attend(", "fmla", values=4),
    Loop("int8, sdot", "neon_dotprod", interleaved_tile("Lanes", "Int8"), "sdot"),
    Loop("int8, smmla", "neon_i8mm", interleaved_tile("Mmla", "MmlaInt8"), "smmla"),
    Loop("bfloat16 and scores, bfmmla", "neon_i8mm", interleaved_tile("Mmla", "MmlaBfloat16"), "bfmmla"),
    Loop("exponentials, bfloat16", "neon_i8mm", "::soften<false>(", "fmla", values=4),
)


def alone(instruction: str) -> list[str]:
    """Multiply-adds of 24 sums, in registers, of which none waits for another of the same iteration."""
    if instruction == "smlal":
        texts = ("smull v{}.8h, v30.8b, v31.8b", "smlal v{}.8h, v30.8b, v31.8b", "sadalp v{}.4s, v31.8h")
        return 3 * [text.format(8 * n + i) for n, text in enumerate(texts) for i in range(8)]
    narrow = {"fmla": ("4s", "4s"), "sdot": ("4s", "16b"), "smmla": ("4s", "16b")}
    to, of = narrow.get(instruction, ("4s", "8h"))
    return [f"{instruction} v{i}.{to}, v30.{of}, v31.{of}" for i in range(24)]


def modelled(code: Callable[[str], assembly.Listing]) -> list[dict[str, Any]]:
    """A row for each loop on each core that can run it."""
    cut = {loop: loop.cut_from(code(loop.build)) for loop in LOOPS}
    rows = []
    for core in CORES.values():
        for build in core.builds:
            loops = [loop for loop in LOOPS if loop.build == build]
            codes = [cut[loop] for loop in loops] + [alone(loop.instruction) for loop in loops]
            found, units = mca.model(codes, core.command(build))
            for loop, ours, peak in zip(loops, found, found[len(loops) :], strict=False):
                of_one = MULTIPLY_ADDS[loop.instruction]
                rate = loop.multiplies(cut[loop]) * of_one / ours.cycles
                row = {
                    "loop": loop.name,
                    "build": build,
                    "core": core.name,
                    "units": units,
                    "instructions": ours.instructions,
                    "cycles": round(ours.cycles, 2),
                    "busy": list(ours.bottlenecks),
                }
                if loop.values:
                    row["cycles_a_value"] = round(ours.cycles / loop.values, 2)
                else:
                    row["multiply_adds_a_cycle"] = round(rate, 2)
                    row["fraction_of_peak"] = round(rate / (24 * of_one / peak.cycles), 3)
                rows.append(row)
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    """A line for each loop: on each core the share of the peak, or cycles a value."""
    units = {row["core"]: row["units"] for row in rows}
    title = f"inner loops by llvm-mca: share of the modelled peak, ! below {GOAL:.0%}; exponentials: cycles a value"
    table = Table("loop", "build", title=title, title_justify="left")
    for core, name in units.items():
        table.add_column(core if name in core.replace(" ", "") else f"{core}, as {name}", justify="right")
    cells = {(row["loop"], row["core"]): row for row in rows}
    for loop in LOOPS:
        shown = []
        for core in units:
            row = cells.get((loop.name, core), {})
            share = row.get("fraction_of_peak")
            shown.append(
                str(row.get("cycles_a_value", ""))
                if share is None
                else f"{share:.0%}{'' if share >= GOAL else ' !'}"
            )
        table.add_row(loop.name, loop.build, *shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arm.loops", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for loops.json")
    chosen = parser.parse_args()
    require([MCA], MCA_PACKAGES)
    variant = objects("aarch64")
    listings = {
        build: assembly.disassembled(variant.object_of(f"csrc/isa/{build}.cpp"), "aarch64")
        for build in {loop.build for loop in LOOPS}
    }
    rows = modelled(listings.__getitem__)
    console().print(table_of(rows))
    commit(chosen.out / "loops.json", "loops", rows)


if __name__ == "__main__":
    exit_with(main)
