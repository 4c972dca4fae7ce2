"""What the lines of results.jsonl say: failures, goals, predictions beside measurements.

The predictions are those of a reading of the code (Triton kernels at f2af116, no GPU at hand): operations and bytes
counted, rates assumed. They are no measurements, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.gpu_names import BMM, COMPILED, COPY, EAGER, GRAPHS, OURS, PATCHED, PRODUCT, SHIPPED, TORCH
from benchmarks.gpu_runner import Record

PREDICTED: dict[tuple[str, str], tuple[float, float]] = {
    ("A self_attention, 256x128, mask by key", SHIPPED): (95, 125),
    ("B conv_add_layer_norm, 256x128", SHIPPED): (105, 130),
    ("C feed_forward, 256x128", SHIPPED): (210, 245),
    ("product, 32768 rows, 768 -> 768, 4 groups", SHIPPED): (35, 45),
    ("attention, 64x512, mask by key", SHIPPED): (160, 205),
    ("model, 256x128", OURS): (4900, 6000),
    ("model, 64x512", OURS): (7000, 8300),
    ("latency, 1x128", GRAPHS): (350, 500),
    ("training step, 64x512", PATCHED): (35000, 45000),
}
"""By case and candidate, microseconds from .. to."""


def failures(records: Iterable[Record]) -> list[str]:
    """What went wrong, a line each: cases, and candidates of ours. A tile that a GPU is too small for is a finding."""
    found = []
    for record in records:
        where = f"{record['part']}: {record['case']}"
        if "error" in record:
            found.append(f"{where}: {record['error']}")
        for candidate, error in record.get("errors", {}).items():
            if record["part"] != "times" or candidate == SHIPPED:
                found.append(f"{where}: {candidate}: {error}")
    return found


def left_out(records: Iterable[Record]) -> dict[str, list[str]]:
    """By part, the cases that weren't tried or were broken off because of the time, or why none was."""
    found: dict[str, list[str]] = {}
    for record in records:
        if "skipped" in record:
            where = record["case"] if record["case"] != "all" else record["skipped"]
            found.setdefault(record["part"], []).append(where)
    return found


class Found:
    """Records by case, and their rows by candidate."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.by_case: dict[tuple[str, str], Record] = {}
        for record in self.records:
            self.by_case.setdefault((record["part"], record["case"]), {}).update(record)

    @property
    def dry(self) -> bool:
        return any(record.get("dry_run") for record in self.records)

    @property
    def machine(self) -> Record:
        machine = dict(self.by_case.get(("about", "machine"), {}))
        if machine and not machine.get("git_commit"):
            machine["git_commit"] = self.by_case.get(("run", "command"), {}).get("commit")
        return machine

    def of(self, *parts: str) -> Iterator[Record]:
        return (record for (part, _), record in self.by_case.items() if part in parts)

    def rows(self, case: str) -> dict[str, dict[str, Any]]:
        """By candidate; empty where nothing was timed."""
        record = next((r for r in self.by_case.values() if r["case"] == case and "rows" in r), {})
        return {row["candidate"]: row for row in record.get("rows", [])}

    def value(self, case: str, candidate: str, key: str = "us") -> float | None:
        found: float | None = self.rows(case).get(candidate, {}).get(key)
        return found

    def ratio(self, case: str, above: str, below: str, key: str = "us") -> float | None:
        a, b = (self.value(case, candidate, key) for candidate in (above, below))
        return a / b if a and b else None

    def of_product(self, case: str, candidate: str) -> float | None:
        """Share of the square product's rate in the same rounds, or of that among the ceilings."""
        tflops = self.value(case, candidate, "tflops")
        most = self.value(case, PRODUCT, "tflops") or self.value("ceilings", PRODUCT, "tflops")
        return tflops / most if tflops and most else None

    def of_ceiling(self, case: str, candidate: str) -> tuple[float, str] | None:
        """(share, of what) of the ceiling that it is nearer to."""
        shares = [(self.of_product(case, candidate) or 0.0, "product")]
        moved = self.value(case, candidate, "gbytes_per_second")
        most = self.value("ceilings", COPY, "gbytes_per_second")
        shares.append((moved / most if moved and most else 0.0, "copy"))
        best = max(shares)
        return best if best[0] else None

    def best(self, case: str) -> tuple[str, float] | None:
        """(name, microseconds) of the fastest of ours."""
        ours = {name: row["us"] for name, row in self.rows(case).items() if name not in (TORCH, PRODUCT)}
        name = min(ours, key=ours.__getitem__, default=None)
        return None if name is None else (name, ours[name])


class Goal(NamedTuple):
    what: str
    value: float | None
    goal: float
    most: bool = False
    """Whether the value must stay below it."""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "met" if (self.value <= self.goal if self.most else self.value >= self.goal) else "missed"


def goals(found: Found) -> list[Goal]:
    """What the documents promise or aim at, held against what was measured."""
    goals = []
    for shape in ("256x128", "64x512"):
        case, compiled = f"model, {shape}", f"compiled, {shape}"
        others = [n for n in found.rows(compiled) if n.startswith(COMPILED)]
        peers = [ratio for name in others if (ratio := found.ratio(compiled, name, OURS))]
        goals += [
            Goal(f"{shape}: of the product's rate", found.of_product(case, OURS), 0.6),
            Goal(f"{shape}: over eager", found.ratio(case, EAGER, OURS), 4.0),
            Goal(f"{shape}: over torch.compile", min(peers, default=None), 2.0),
        ]
    graphs = found.value("latency, 1x128", GRAPHS)
    goals += [
        Goal("1x128, graphs: ms", graphs and graphs / 1e3, 0.25, most=True),
        Goal("1x128, graphs: over eager", found.ratio("latency, 1x128", EAGER, GRAPHS), 8.0),
        Goal("256x5..128: over padded", found.ratio("model, 256x5..128", OURS, f"{OURS}, unpad"), 1.7),
    ]
    for shape in ("32x128", "64x512"):
        case, compiled = f"training step, {shape}", f"training step compiled, {shape}"
        goals += [
            Goal(f"training {shape}: over eager", found.ratio(case, EAGER, PATCHED), 3.0),
            Goal(
                f"training {shape}: over torch.compile",
                found.ratio(compiled, f"{COMPILED}{EAGER}", PATCHED),
                1.7,
            ),
            Goal(
                f"training {shape}: of eager's memory",
                found.ratio(case, PATCHED, EAGER, "step_bytes"),
                0.5,
                most=True,
            ),
        ]
    share = found.of_product("training step, 64x512", PATCHED)
    return [*goals, Goal("training 64x512: of the product's rate", share, 0.45)]


@dataclass(frozen=True)
class Line:
    """A case of the summary's table."""

    case: str
    candidate: str
    us: float
    tflops: float | None
    share: tuple[float, str] | None
    predicted: tuple[float, float] | None
    best: tuple[str, float] | None
    torch: float | None


def lines(found: Found) -> list[Line]:
    """Of every kernel its shipped choice, of every model and step the one of ours that the goals are about."""
    made = []
    for record in found.of("times", "models", "training"):
        case, rows = record["case"], found.rows(record["case"])
        candidate = next((n for n in (SHIPPED, GRAPHS, OURS, PATCHED) if n in rows), None)
        if candidate is None or case.startswith(("compiled", "training step compiled")):
            continue
        torch = rows.get(TORCH) or rows.get(BMM) or rows.get(EAGER)
        made.append(
            Line(
                case,
                candidate,
                rows[candidate]["us"],
                rows[candidate].get("tflops"),
                found.of_ceiling(case, candidate),
                PREDICTED.get((case, candidate)),
                found.best(case) if record["part"] == "times" else None,
                torch and torch["us"],
            )
        )
    return made
