"""What is known of ARM without ARM: modelled loops, counted instructions, projected latency."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.markdown import Results, command, results, table

KINDS = (
    "products",
    "attention around products",
    "LayerNorm",
    "rounding of rows",
    "ends of products, activations",
    "the rest",
)


def _results(name: str) -> Results:
    return results(f"arm/{name}")


def _source(measured: Results, of: str) -> str:
    return f"\n*{of}: `{command(measured)}`*"


def loops() -> str:
    """The inner loops on LLVM's models of cores."""
    measured = _results("loops")
    cores: dict[str, str] = {}
    loops: dict[str, dict[str, Any]] = {}
    for row in measured["rows"]:
        core, units = row["core"], row["units"]
        cores[core] = core if units in core.replace(" ", "") else f"{core}, as {units}"
        loops.setdefault(row["loop"], {})[core] = row
    body = []
    for loop, rows in loops.items():
        cells = []
        for core in cores:
            row = rows.get(core)
            if row is None:
                cells.append("")
            elif row.get("fraction_of_peak") is None:
                cells.append(f"{row['cycles_a_value']} cycles")
            else:
                cells.append(f"{row['fraction_of_peak']:.0%}")
        body.append((loop, *cells))
    return "\n".join(
        [
            table(("loop", *cores.values()), body),
            _source(measured, "Modelled by llvm-mca, not measured; of exponentials, cycles a value"),
        ]
    )


def instructions() -> str:
    """Instructions of a layer for a token, at 1x128."""
    measured = _results("instructions")
    body = [
        (
            f"`{row['build']}`",
            row["precision"],
            f"{row['instructions_a_token'] / 1e3:.1f}",
            f"{row['multiplying'] / 1e3:.1f}",
            *(f"{row['by_kind'].get(kind, 0) / 1e3:.1f}" for kind in KINDS),
        )
        for row in measured["rows"]
        if row["tokens"] == 128
    ]
    head = ("build", "precision", "instructions", "multiply-adds among them", *KINDS)
    of = f"Counted under emulation, {measured['versions']['compiler']}"
    return "\n".join([table(head, body, texts=2), _source(measured, of)])


def projection() -> str:
    """Milliseconds on phones, projected."""
    measured = _results("projection")
    body = [
        (
            row["phone"],
            row["precision"],
            str(row["threads"]),
            f"{row['compute_ms']:.1f}",
            f"{row['weights_ms']:.1f}",
            f"**{row['projected_ms']:.1f}**",
            f"{row['projected_ms_at_half_rate']:.1f}",
        )
        for row in measured["rows"]
    ]
    head = (
        "phone",
        "precision",
        "threads",
        "computing, ms",
        "weights, ms",
        "**projected, ms**",
        "if products ran at half the model's rate, ms",
    )
    stands = dict.fromkeys(f"- {row['phone']}: {row['stands_for']}." for row in measured["rows"])
    return "\n".join(
        [table(head, body, texts=2), "", *stands, _source(measured, "A projection, not a measurement")]
    )


def known() -> str:
    """The same projection where the answer is known."""
    measured = _results("known")
    body = [
        (
            row["precision"],
            f"{row['projected_cycles'] / 1e6:.1f}",
            *(
                cell
                for layers in (1, 12)
                for cell in (
                    f"{row[f'measured_cycles_{layers}'] / 1e6:.1f}",
                    f"{row[f'measured_over_projected_{layers}']:.2f}",
                )
            ),
        )
        for row in measured["rows"]
    ]
    head = (
        "precision",
        "projected",
        "measured, 1 layer",
        "over projected",
        "measured, 12 layers",
        "over projected",
    )
    return "\n".join([table(head, body), _source(measured, f"Million cycles a layer, {measured['cpu']}")])


TABLES = {
    "arm-loops": loops,
    "arm-instructions": instructions,
    "arm-projection": projection,
    "arm-known": known,
}
