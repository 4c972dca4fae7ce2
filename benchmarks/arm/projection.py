"""How long a forward of the base model would take on phones: a projection, of which nothing was measured.

    python -m benchmarks.arm.projection --out benchmarks/results/arm

1. Emulation counts how often each block of machine code runs in a layer's forward of 1x128 (program.py).
2. llvm-mca says how many cycles a run of each block takes on a core, among many runs of the same block (mca.py).
3. Their product, summed, is the layer's cycles; 12 layers and the clock make milliseconds. Threads share them evenly.
4. Packed weights come from memory once a forward: the column "weights", at the memory's best rate. The projection is
   the longer of the two, since kernels fetch weights ahead.

Beside it stands what it would be if the core multiplied at half the rate of its model, which may be another core's.

Left out: cache misses, other programs, heat, branches that are predicted wrong, starts and ends of threads, embeddings
and heads. `known.py` does the same for this machine, where the answer can be measured.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.arm import mca
from benchmarks.arm.assembly import Block
from benchmarks.arm.cores import CORES, PHONES, Cluster, Core
from benchmarks.arm.counts import PRECISIONS, REST, kind_of
from benchmarks.arm.program import Program, program
from benchmarks.arm.report import commit, exit_with
from benchmarks.arm.tools import MCA, MCA_PACKAGES, require
from benchmarks.command import console

LAYERS = 12
MODELLED_SHARE = 0.999
"""Of all instructions, the share whose blocks are modelled. The others take as long each as those on average."""
PAPER = {"SqueezeBERT": 390, "BERT-base": 1700}
"""Milliseconds at 1x128 on a Pixel 3 in the SqueezeBERT paper (https://arxiv.org/abs/2006.11316)."""
COLUMNS = ("threads", "compute_ms", "weights_ms", "projected_ms", "projected_ms_at_half_rate")


@dataclass(frozen=True)
class Layer:
    """What one layer's forward runs, most often run first."""

    blocks: tuple[Block, ...]
    packed_bytes: int


def layer_of(forward: Program, build: str, precision: str) -> Layer:
    counts = forward.counted(build, precision)
    blocks = sorted(forward.listing.blocks(counts.executed), key=lambda block: -block.executed)
    return Layer(tuple(blocks), counts.packed_bytes)


@lru_cache
def cycles(layer: Layer, core: Core, build: str) -> dict[str, float]:
    """Of one layer's forward, by kind of function."""
    total = sum(block.executed for block in layer.blocks)
    chosen, so_far = [], 0
    for block in layer.blocks:
        if so_far >= MODELLED_SHARE * total:
            break
        chosen.append(block)
        so_far += block.executed
    modelled, _ = mca.model([block.texts for block in chosen], core.command(build))
    found: Counter[str] = Counter()
    for block, one in zip(chosen, modelled, strict=True):
        found[kind_of(block.function)] += block.runs * one.cycles  # type: ignore[assignment]
    found[REST] += (total - so_far) * found.total() / so_far  # type: ignore[assignment]
    return dict(found)


def projected(
    layers: dict[tuple[str, str], Layer], phone: Cluster, precision: str, threads: int
) -> dict[str, Any]:
    """threads: of the phone's cores, the fastest."""
    layer = layers[phone.build, precision]
    rates, half_rates, left, of_first = 0.0, 0.0, threads, {}
    for name, gigahertz, count in phone.cores:
        by_kind = cycles(layer, CORES[name], phone.build)
        of_first = of_first or by_kind
        used = min(left, count)
        rates += used * gigahertz * 1e9 / (LAYERS * sum(by_kind.values()))
        half_rates += used * gigahertz * 1e9 / (LAYERS * (sum(by_kind.values()) + by_kind["products"]))
        left -= used
    weights = LAYERS * layer.packed_bytes / (phone.gigabytes_per_second * 1e9)
    return {
        "phone": phone.name,
        "stands_for": phone.stands_for,
        "precision": precision,
        "build": phone.build,
        "threads": threads,
        "compute_ms": round(1e3 / rates, 1),
        "weights_ms": round(1e3 * weights, 1),
        "projected_ms": round(1e3 * max(1 / rates, weights), 1),
        "projected_ms_at_half_rate": round(1e3 * max(1 / half_rates, weights), 1),
        "layer_cycles_of_first_core": {kind: round(number) for kind, number in of_first.items()},
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    title = "PROJECTED milliseconds of the base model's encoder at 1x128; nothing here was measured on ARM"
    table = Table("phone", "precision", title=title, title_justify="left")
    for column in ("threads", "computing", "weights", "projected", "products at half the rate"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = [str(row[name]) for name in COLUMNS]
        table.add_row(row["phone"], row["precision"], *shown)
    for name, milliseconds in PAPER.items():
        table.add_row("Pixel 3", f"{name} in the paper, measured", "", "", "", str(milliseconds), "")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arm.projection", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for projection.json")
    chosen = parser.parse_args()
    require([MCA], MCA_PACKAGES)
    forward = program("aarch64")
    builds = {phone.build for phone in PHONES}
    layers = {
        (build, name): layer_of(forward, build, name) for build in sorted(builds) for name in PRECISIONS
    }
    rows = [
        projected(layers, phone, precision, threads)
        for phone in PHONES
        for precision in PRECISIONS
        for threads in (1, 4)
    ]
    console().print(table_of(rows))
    commit(chosen.out / "projection.json", "projection", rows, projection=True, paper_ms=PAPER)


if __name__ == "__main__":
    exit_with(main)
