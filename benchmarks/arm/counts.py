"""Instructions that a token costs on each ARM build, counted under emulation: the same figure on every machine.

    python -m benchmarks.arm.counts --out benchmarks/results/arm
    python -m benchmarks.arm.counts --check

One layer of the base model's shape, random weights, one sequence on one thread. `--check` counts a short sequence alone
and fails where a token costs more than the committed figure and some percent: `make test-arm` runs it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.arm.assembly import plain
from benchmarks.arm.program import ARM_BUILDS, FEW_TOKENS, TOKENS, Program, program
from benchmarks.arm.report import commit, exit_with, versions
from benchmarks.command import console
from build_flags import ROOT

PRECISIONS = ("float32", "bfloat16", "int8")
COMMITTED = ROOT / "benchmarks" / "results" / "arm" / "instructions.json"
MOST = 1.03
"""How many times the committed figure a count may be."""
# By the name of a function, the first that fits. Everything that a name here doesn't have is inlined somewhere.
KINDS = {
    "products": r"tile<",
    "attention around products": r"attend|attention|soften|Panels|Scores",
    "LayerNorm": r"normalize_row|add_layer_norm",
    "rounding of rows": r"::prepare|feed_forward<",
    "ends of products, activations": r"run_segment<|product<|Tile<|activate",
}
REST = "the rest"


def kind_of(function: str) -> str:
    name = plain(function)
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), REST)


def counted(forward: Program, build: str, precision: str, tokens: int) -> dict[str, Any]:
    """Of a layer, by token: instructions in all, by kind of function, and of those that multiply and add."""
    counts = forward.counted(build, precision, tokens)
    kinds: Counter[str] = Counter()
    multiplying = 0
    for one, count in zip(forward.listing.instructions, counts.executed, strict=True):
        if count:
            kinds[kind_of(one.function)] += count
            multiplying += count * bool(re.match(r"fmla|[su]m(?:la|ul)l|[su]dot|smmla|bfmmla", one.text))
    return {
        "build": build,
        "precision": precision,
        "tokens": tokens,
        "instructions_a_token": round(kinds.total() / tokens, 1),
        "multiplying": round(multiplying / tokens, 1),
        "by_kind": {kind: round(count / tokens, 1) for kind, count in kinds.most_common()},
        "packed_bytes": counts.packed_bytes,
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table("build", "precision", title="thousand instructions a token and layer", title_justify="left")
    columns = [*KINDS, REST]
    for column in ("tokens", "all", "multiply-adds", *columns):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = [
            row["instructions_a_token"],
            row["multiplying"],
            *(row["by_kind"].get(kind, 0) for kind in columns),
        ]
        shown = [f"{number / 1e3:.1f}" for number in numbers]
        table.add_row(row["build"], row["precision"], str(row["tokens"]), *shown)
    return table


def grown(rows: list[dict[str, Any]], committed: dict[str, Any]) -> list[str]:
    """A line for each count that is more than the committed one allows, or of which none is committed."""
    key = lambda row: (row["build"], row["precision"], row["tokens"])  # noqa: E731
    before = {key(row): row["instructions_a_token"] for row in committed["rows"]}
    lines = []
    for row in rows:
        name, now = "{} {}, {} tokens".format(*key(row)), row["instructions_a_token"]
        if key(row) not in before:
            lines.append(f"{name}: {now:.0f} instructions a token, and none committed")
        elif now > MOST * before[key(row)]:
            share = now / before[key(row)] - 1
            lines.append(f"{name}: {now:.0f} instructions a token, {share:.1%} over {before[key(row)]:.0f}")
    return lines


def check(rows: list[dict[str, Any]]) -> None:
    """End with what grew and what to do about it."""
    committed = json.loads(COMMITTED.read_text())
    if lines := grown(rows, committed):
        tools = (
            "" if committed["versions"] == versions() else f" (by {committed['versions']}, here {versions()})"
        )
        again = f"python -m benchmarks.arm.counts --out {COMMITTED.parent.relative_to(ROOT)}"
        sys.exit(
            "\n".join(
                [*lines, f"expected at most {MOST} times what is committed{tools}; if it should: {again}"]
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arm.counts", description=(__doc__ or "").split("\n")[0]
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="folder for instructions.json")
    what.add_argument("--check", action="store_true", help="compare a short sequence with what is committed")
    chosen = parser.parse_args()
    forward = program("aarch64")
    lengths = (FEW_TOKENS,) if chosen.check else (FEW_TOKENS, TOKENS)
    rows = [
        counted(forward, build, precision, tokens)
        for tokens in lengths
        for build in ARM_BUILDS
        for precision in PRECISIONS
    ]
    console().print(table_of(rows))
    if chosen.check:
        check(rows)
    else:
        commit(chosen.out / COMMITTED.name, "counts", rows)


if __name__ == "__main__":
    exit_with(main)
