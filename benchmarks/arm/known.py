"""The projection's method where the answer is known: the AVX2 build on this machine, projected and measured.

    python -m benchmarks.arm.known --model znver5 --out benchmarks/results/arm

Instructions are counted under qemu's x86-64 emulation, cycles are llvm-mca's for the model that is named, and the
measurement is the CPU time of one thread over the clock's rate meanwhile, for one layer, whose weights stay in the
caches, and for twelve.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.arm.cores import Core
from benchmarks.arm.program import TOKENS, Program, program
from benchmarks.arm.projection import LAYERS, cycles, layer_of
from benchmarks.arm.report import commit, exit_with
from benchmarks.arm.tools import MCA, MCA_PACKAGES, require
from benchmarks.command import console
from benchmarks.report import cpu_model

BUILD, PRECISIONS = "avx2", ("float32", "int8")


def compared(forward: Program, core: Core, precision: str) -> dict[str, Any]:
    projected = sum(cycles(layer_of(forward, BUILD, precision), core, BUILD).values())
    row: dict[str, Any] = {"precision": precision, "projected_cycles": round(projected)}
    for layers in (1, LAYERS):
        timed = forward.timed(BUILD, precision, TOKENS, layers, 40 // layers + 5)
        measured = timed["median_seconds"] * timed["hertz"] / layers
        row[f"measured_cycles_{layers}"] = round(measured)
        row[f"measured_over_projected_{layers}"] = round(measured / projected, 2)
        row["gigahertz"] = round(timed["hertz"] / 1e9, 2)
    return row


def table_of(rows: list[dict[str, Any]], model: str) -> Table:
    title = (
        f"million cycles a layer at 1x{TOKENS}, build {BUILD}: projected with {model}'s model, measured here"
    )
    table = Table("precision", title=title, title_justify="left")
    columns = ("projected", "1 layer", "measured / projected", f"{LAYERS} layers", "measured / projected")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        shown = [f"{row['projected_cycles'] / 1e6:.1f}"]
        for layers in (1, LAYERS):
            shown += [
                f"{row[f'measured_cycles_{layers}'] / 1e6:.1f}",
                str(row[f"measured_over_projected_{layers}"]),
            ]
        table.add_row(row["precision"], *shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arm.known", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for known.json")
    parser.add_argument("--model", required=True, help="llvm-mca's -mcpu for this machine, such as znver5")
    chosen = parser.parse_args()
    require([MCA], MCA_PACKAGES)
    forward = program("x86_64")
    core = Core(cpu_model(), chosen.model, (BUILD,), "x86_64")
    rows = [compared(forward, core, precision) for precision in PRECISIONS]
    console().print(table_of(rows, chosen.model))
    commit(
        chosen.out / "known.json", f"known --model {chosen.model}", rows, machine="x86_64", cpu=cpu_model()
    )


if __name__ == "__main__":
    exit_with(main)
