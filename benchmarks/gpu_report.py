"""Tables of what `benchmarks.gpu_check` found, from the file that came back, on any machine:

    python -m benchmarks.gpu_report out/results.jsonl                            # Markdown
    python -m benchmarks.gpu_report out/results.jsonl --out benchmarks/results   # gpu.json, gpu.md, gpu_curves.svg

The file may end anywhere: what a run that was killed had found is all there.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_findings import Found, Goal, Line, failures, goals, left_out, lines
from benchmarks.gpu_runner import Record, Results

SUMMARY_LINES = 40
WIDTH = 150
SMOOTHED = 10  # steps that a point of the drawn curves is the mean of
DRY = "A DRY RUN: nothing was measured, every time is made up."


def duration(us: float) -> str:
    return f"{us / 1e3:.4g} ms" if us >= 1000 else f"{us:.4g} us"


def predicted(span: tuple[float, float] | None) -> str:
    if span is None:
        return ""
    scale, unit = (1e3, "ms") if span[0] >= 1000 else (1.0, "us")
    return f"{span[0] / scale:g}-{span[1] / scale:g} {unit}"


def share(value: tuple[float, str] | None) -> str:
    return "" if value is None else f"{value[0]:.0%} {value[1]}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def head(found: Found) -> list[str]:
    """Machine and versions, ceilings."""
    machine = found.machine
    gpu, versions = machine.get("gpu", {}), machine.get("versions", {})
    said = [DRY] * found.dry
    if machine:
        said.append(
            f"{gpu.get('name', 'no GPU')}, {machine.get('date')}, commit {str(machine.get('git_commit'))[:9]}, Python "
            f"{machine.get('python')}, torch {versions.get('torch')}, triton "
            f"{machine.get('machine', {}).get('versions', {}).get('triton')}, ptxas: "
            f"{machine.get('ptxas', {}).get('version')}"
        )
    product, copy = (
        found.value("ceilings", "square product", "tflops"),
        found.value("ceilings", "copy", "gbytes_per_second"),
    )
    said.append(f"ceilings: {number(product)} TFLOP/s (8192^3, bfloat16), copy {number(copy)} GB/s")
    return said


def summary(records: Iterable[Record]) -> str:
    """What is printed last: failures first, then figures, then goals; it fits the end of an output that is cut."""
    found = Found(records)
    wrong = failures(found.records)
    first = head(found)
    first.append(f"FAILURES: {len(wrong)}" if wrong else "no failures")
    first += [f"  {line}" for line in wrong[:8]]
    if len(wrong) > 8:
        first.append(f"  ... and {len(wrong) - 8} more: grep error results.jsonl")
    if out := left_out(found.records):
        first.append("left out: " + "; ".join(f"{part}: {brief(cases)}" for part, cases in out.items()))
    last = goal_lines(goals(found))
    room = SUMMARY_LINES - len(first) - len(last) - 1
    table = sorted(lines(found), key=lambda line: not line.predicted)  # those with a prediction must be there
    heading = (
        f"{'':46}{'time':>10}{'predicted':>14}{'TFLOP/s':>9}  {'of the ceiling':16}{'torch':>9}  best of ours"
    )
    text = [*first, *([heading] if table else []), *map(table_line, table[:room]), *last]
    return "\n".join(line[:WIDTH] for line in text) + "\n"


def brief(cases: Sequence[str]) -> str:
    return cases[0] if len(cases) == 1 else f"{len(cases)} cases"


def table_line(line: Line) -> str:
    torch = duration(line.torch) if line.torch else ""
    best = f"{line.best[0]}: {duration(line.best[1])}" if line.best and line.best[1] < 0.98 * line.us else ""
    return (
        f"{line.case[:45]:46}{duration(line.us):>10}{predicted(line.predicted):>14}{number(line.tflops):>9}  "
        f"{share(line.share):16}{torch:>9}  {best}"
    )


def goal_lines(found: Sequence[Goal]) -> list[str]:
    """Two of them in a line."""
    said = [
        f"{goal.what} {number(goal.value) or '-'} ({'<=' if goal.most else '>='} {goal.goal:g}: {goal.verdict})"
        for goal in found
    ]
    pairs = [said[at : at + 2] for at in range(0, len(said), 2)]
    return ["GOALS", *("  " + "".join(f"{each:72}" for each in pair).rstrip() for pair in pairs)]


# Markdown


def markdown(found: Found) -> str:
    """All of it."""
    parts = ["# GPU check", *head(found)]
    wrong = failures(found.records)
    parts.append("## Failures\n\n" + ("\n".join(f"- {line}" for line in wrong) or "None."))
    if out := left_out(found.records):
        parts.append("Left out: " + "; ".join(f"{part}: {', '.join(cases)}" for part, cases in out.items()))
    rows = [
        (g.what, number(g.value), f"{'at most' if g.most else 'at least'} {g.goal:g}", g.verdict)
        for g in goals(found)
    ]
    parts.append("## Goals\n\n" + table(("", "measured", "goal", ""), rows))
    rows = [
        (line.case, duration(line.us), predicted(line.predicted), number(line.tflops), share(line.share))
        for line in lines(found)
        if line.predicted
    ]
    told = "Predictions are from counting operations and bytes, before any GPU ran this."
    parts.append(
        f"## Predicted and measured\n\n{told}\n\n"
        + table(("", "measured", "predicted", "TFLOP/s", "of the ceiling"), rows)
    )
    parts += [case(record, found) for record in found.records if "rows" in record]
    if counters := [kernel_row(r["case"], k) for r in found.of("ncu") for k in r.get("kernels", [])]:
        names = (
            "",
            "kernel",
            "us",
            "tensor pipe",
            "SM",
            "L1",
            "L2",
            "DRAM",
            "occupancy",
            "registers",
            "waits for",
        )
        parts.append("## Hardware counters\n\n" + table(names, counters))
    parts += [curves(record) for record in found.of("curves") if record.get("runs")]
    for record in found.of("tests"):
        parts.append(
            f"## Tests\n\n{record.get('counts')}" + " (stopped by the time)" * record.get("stopped", False)
        )
    return "\n\n".join(parts) + "\n"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join([*head, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def case(record: Record, found: Found) -> str:
    """A table of a case's candidates."""
    name = record["case"]
    baseline = record["rows"][0]["us"] if record["rows"] else None
    names = ["", "median", "p20 .. p80", "over the first", "TFLOP/s", "GB/s", "of the ceiling"]
    memory = any(row.get("step_bytes") for row in record["rows"])
    rows = []
    for row in record["rows"]:
        candidate = row["candidate"]
        cells = [
            candidate,
            duration(row["us"]),
            f"{duration(row['p20_us'])} .. {duration(row['p80_us'])}",
            number(baseline / row["us"]),
            number(row.get("tflops")),
            number(row.get("gbytes_per_second")),
            share(found.of_ceiling(name, candidate)),
        ]
        if memory:
            cells += [number(row.get("tokens_per_second")), number(row.get("step_bytes", 0) / 1e6)]
        rows.append(cells)
    said = [f"## {name}", table([*names, "tokens/s", "MB for the step"] if memory else names, rows)]
    if "real_tokens" in record:
        said.append(f"Real tokens: {record['real_tokens']:.0%} of the padded batch; TFLOP/s count theirs.")
    if record.get("host_us_of_a_call") is not None:
        said.append(f"Host time of a call, nothing waited for: {record['host_us_of_a_call']} us.")
    said += [f"No CUDA graph: {reason}" for reason in record.get("graphs_not_used", [])]
    said += [f"Left out: {candidate}: {error}" for candidate, error in record.get("errors", {}).items()]
    if profile := record.get("profile"):
        rows = [(f"`{kernel}`", str(count), number(us)) for kernel, count, us in profile]
        said.append(table(("kernel of a patched step", "launches", "us"), rows))
    return "\n\n".join(said)


def kernel_row(case: str, kernel: dict[str, Any]) -> list[str]:
    keys = (
        "us",
        *(f"{name}_percent" for name in ("tensor_pipe", "sm", "l1", "l2", "dram", "occupancy")),
        "registers",
    )
    stalls = ", ".join(f"{name} {value:.2g}" for name, value in kernel.get("stalls", {}).items())
    return [case, kernel["kernel"], *(number(kernel.get(key)) for key in keys), stalls]


def curves(record: Record) -> str:
    """A table of the runs, and how far their losses are apart."""
    rows = []
    for run in record["runs"]:
        last = run["losses"][-10:]
        speed = f"{run['tokens_per_second']:,.0f}" if run["tokens_per_second"] else ""
        accuracy = f"{run['dev']['accuracy']:.4f}"
        rows.append((run["name"], f"{run['losses'][0]:.4f}", f"{sum(last) / len(last):.4f}", accuracy, speed))
    said = [
        f"## Loss curves: {record['curves']}",
        table(("", "first loss", "last ten", "dev accuracy", "tokens/s"), rows),
    ]
    for name, what in (
        ("patched_from_eager", "patched from eager, both bfloat16"),
        ("bfloat16_from_float32", "eager bfloat16 from eager float32"),
    ):
        if record[name] is not None:
            told = "Mean difference of the losses, step by step, without dropout"
            said.append(f"{told}: {what}: {record[name]:.4f}")
    return "\n\n".join(said)


def draw_curves(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """The losses of all runs over each other, those with dropout beside those without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, dropped in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        for run in (run for run in runs if ("dropout" in run["name"]) is dropped):
            losses = run["losses"]
            starts = range(max(len(losses) - SMOOTHED + 1, 1))
            means = [sum(part) / len(part) for part in (losses[at : at + SMOOTHED] for at in starts)]
            # Dashes let what lies beneath show.
            style = "--" if run["name"].startswith("patched") else "-"
            axes.plot([at + SMOOTHED for at in starts], means, style, label=run["name"], linewidth=1.3)
        axes.set_title("with dropout" if dropped else "without dropout", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.supylabel(f"training loss, mean of {SMOOTHED} steps", fontsize=10)
    figure.savefig(path)


def keep(found: Found, out: Path) -> list[str]:
    """Write what belongs into `out`, and say which files. A dry run, or one that measured nothing, has nothing."""
    from benchmarks.report import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "gpu.json", {**found.machine, "cases": [r for r in found.records if r["part"] != "run"]})
    (out / "gpu.md").write_text(markdown(found), encoding="utf-8")
    written = ["gpu.json", "gpu.md"]
    runs = next((record["runs"] for record in found.of("curves") if record.get("runs")), None)
    if runs and importlib.util.find_spec("matplotlib"):
        draw_curves(runs, out / "gpu_curves.svg")
        written.append("gpu_curves.svg")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="FILE", help="results.jsonl; of several calls, all"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write gpu.json, gpu.md and a plot there")
    parser.add_argument("--summary", action="store_true", help="only what gpu_check prints last")
    chosen = parser.parse_args()
    records = []
    for path in chosen.results:
        if not path.is_file():
            parser.error(f"{path} is not a file")
        records += Results(path).read()
    if not records:
        parser.error(f"{chosen.results[0]} has no result")
    found = Found(records)
    if chosen.out is None:
        print(summary(records) if chosen.summary else markdown(found))
        return
    if found.dry or "gpu" not in found.machine:
        sys.exit("error: a dry run, or one without the part `about`, is nothing to keep")
    print(f"wrote {', '.join(keep(found, chosen.out))} to {chosen.out}")


if __name__ == "__main__":
    main()
