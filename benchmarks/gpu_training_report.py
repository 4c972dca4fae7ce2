"""What the training steps of `benchmarks.gpu_check` found beside times, for its report: memory, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps import EAGER

SMOOTHED = 10  # steps that a point of the drawn curves is the mean of


def memory_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of tokens a second and of the memory of a step; nothing for rows without."""
    measured = [row for row in rows if row.get("step_bytes")]
    if not measured:
        return []
    eager = next((row["step_bytes"] for row in measured if row["candidate"] == EAGER), None)
    lines = ["", "| | tokens/s | MB for the step | of eager's |", "| --- | --- | --- | --- |"]
    for row in measured:
        share = f"{row['step_bytes'] / eager:.0%}" if eager else ""
        cells = [f"{row['tokens_per_second']:,.0f}", f"{row['step_bytes'] / 1e6:,.0f}", share]
        lines.append(f"| {row['candidate']} | " + " | ".join(cells) + " |")
    return lines


def curve_lines(result: dict[str, Any]) -> list[str]:
    """A table of the runs, and how far their losses are apart."""
    lines = ["| | first loss | last ten | dev accuracy | tokens/s |", "| --- | --- | --- | --- | --- |"]
    for run in result["runs"]:
        last = run["losses"][-10:]
        speed = f"{run['tokens_per_second']:,.0f}" if run["tokens_per_second"] else ""
        cells = [f"{run['losses'][0]:.4f}", f"{sum(last) / len(last):.4f}", f"{run['dev']['accuracy']:.4f}"]
        lines.append(f"| {run['name']} | " + " | ".join([*cells, speed]) + " |")
    for name, what in (
        ("patched_from_eager", "patched from eager, both bfloat16"),
        ("bfloat16_from_float32", "eager bfloat16 from eager float32"),
    ):
        if result[name] is not None:
            lines += [
                "",
                f"Mean difference of the losses, step by step, without dropout: {what}: {result[name]:.4f}",
            ]
    return lines + [
        line for name, error in result["errors"].items() for line in ("", f"Left out: {name}: {error}")
    ]


def draw_curves(runs: Sequence[dict[str, Any]], path: Path) -> Path:
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
    figure.savefig(path, dpi=120)
    return path
