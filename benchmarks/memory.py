"""The most memory that one long forward needs: each engine in a process of its own.

    python -m benchmarks.memory --out benchmarks/results

prints the table and writes memory.json. README.md says what it means.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.table import Table

from benchmarks.command import about, add_shapes, console, exit_with, parser_for, prepare
from benchmarks.report import Shape, shape_name, write_json
from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel, patch
from squeezebert_fast.backends.cpu import PRECISIONS

EAGER, UNPATCHED = "transformers eager", "squeezebert_fast unpatched"
OURS = {f"squeezebert_fast {precision}": precision for precision in PRECISIONS}
ENGINES = (EAGER, UNPATCHED, *OURS)


def status(key: str) -> int:
    """Bytes that /proc says of this process: VmRSS now, VmHWM at most so far."""
    found = re.search(
        rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE
    )
    assert found is not None
    return 1024 * int(found[1])


def resident_now() -> int:
    """Resident bytes, once the allocator has given back what it only holds in reserve."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's alone
        libc.malloc_trim(0)
    return status("VmRSS")


def peak_during(run: Callable[[], object]) -> tuple[int, int]:
    """Resident bytes before `run`, and at most meanwhile."""
    before = resident_now()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from VmRSS
    run()
    # Linux counts pages in batches, a thread at a time: its highest mark may be some of them below what it said before
    return before, max(before, status("VmHWM"))


def child(engine: str, shape: Shape) -> dict[str, int]:
    """Run one forward here, and what it took: memory before, with the model loaded, and at its peak."""
    torch.manual_seed(0)
    model: torch.nn.Module
    if engine == EAGER:
        import transformers  # here: what it takes itself is eager's alone

        model = transformers.SqueezeBertModel(transformers.SqueezeBertConfig()).eval()
    else:
        model = SqueezeBertModel(SqueezeBertConfig()).eval()
        if engine in OURS:
            patch(model, precision=OURS[engine])
    input_ids = torch.randint(0, 30522, shape)
    with torch.inference_mode():
        before, peak = peak_during(lambda: model(input_ids))
    return {"before_bytes": before, "peak_bytes": peak}


def in_a_process(engine: str, shape: Shape, threads: int) -> dict[str, int]:
    arguments = ["--child", engine, "--shapes", shape_name(shape), "--threads", str(threads), "--out", "."]
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        sys.exit(f"error: {engine}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main() -> None:
    parser = parser_for("memory", __doc__, repeats=None)
    add_shapes(parser, ((32, 512),))
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    prepare(chosen)
    if chosen.child is not None:
        print(json.dumps(child(chosen.child, chosen.shapes[0])))
        return
    where, shown, rows = about("memory", None), console(), []
    for shape in chosen.shapes:
        table = Table("engine", title=shape_name(shape), title_justify="left")
        for column in ("MB before", "MB at the peak", "MB for the forward", f"peak, of {EAGER}'s"):
            table.add_column(column, justify="right")
        results = {engine: in_a_process(engine, shape, chosen.threads) for engine in ENGINES}
        for engine, taken in results.items():
            before, peak = taken["before_bytes"], taken["peak_bytes"]
            share = peak / results[EAGER]["peak_bytes"]
            table.add_row(
                engine,
                f"{before / 1e6:.0f}",
                f"{peak / 1e6:.0f}",
                f"{(peak - before) / 1e6:.0f}",
                f"{share:.0%}",
            )
            rows.append({"case": shape_name(shape), "candidate": engine, **taken})
        shown.print(table)
    write_json(chosen.out / "memory.json", {**where, "rows": rows})
    shown.print(f"wrote {chosen.out / 'memory.json'}")


if __name__ == "__main__":
    exit_with(main)
