"""What vector instructions cost alone, and beside products on tiles (AMX), on one core.

    python -m benchmarks.beside_tiles --out benchmarks/results/amx

compiles benchmarks/beside_tiles.cpp, prints the table and writes beside_tiles.json. Needs a CPU with AMX and a C++
compiler.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from rich.table import Table

from benchmarks.command import DataMissing, about, console, exit_with, parser_for, prepare
from benchmarks.report import cpu_features, write_json

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = (
    "-std=c++17",
    "-O2",
    "-mavx512f",
    "-mavx512dq",
    "-mavx512bw",
    "-mavx512vl",
    "-mamx-tile",
    "-mamx-bf16",
)


def measured() -> list[dict[str, object]]:
    """A row for each instruction: nanoseconds of one alone and, of vectors', beside products."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "beside_tiles"
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], check=True)
        said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rows: list[dict[str, object]] = []
    for line in said.splitlines():
        what, alone, beside = line.split(",")
        row: dict[str, object] = {"instruction": what, "alone_ns": float(alone)}
        if beside:
            row["beside_ns"] = float(beside)
        rows.append(row)
    return rows


def table_of(rows: list[dict[str, object]]) -> Table:
    table = Table("instruction", title="Nanoseconds of one", title_justify="left")
    for column in ("alone", "beside products"):
        table.add_column(column, justify="right")
    for row in rows:
        times = (row.get(name) for name in ("alone_ns", "beside_ns"))
        table.add_row(str(row["instruction"]), *("" if time is None else f"{time:.2f}" for time in times))
    return table


def main() -> None:
    chosen = parser_for("beside_tiles", __doc__, repeats=None).parse_args()
    prepare(chosen)
    if "amx_bf16" not in cpu_features():
        raise DataMissing("this CPU has no AMX that this process may use")
    where, rows = about("beside_tiles", None), measured()
    console().print(table_of(rows))
    write_json(chosen.out / "beside_tiles.json", {**where, "rows": rows})


if __name__ == "__main__":
    exit_with(main)
