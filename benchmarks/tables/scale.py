"""Batches and serving: what a row costs, workers beside threads, a server beside another."""

from __future__ import annotations

from benchmarks.tables.markdown import results, short, source, table

OF_ROWS = "microseconds_a_row"


def batch_costs() -> str:
    """Where the time of `predict` goes, by model."""
    measured = results("batch")
    models = [name for name, value in measured.items() if isinstance(value, dict) and OF_ROWS in value]
    parts = list(measured[models[0]][OF_ROWS])
    body = []
    for part in parts:
        cells = []
        for name in models:
            found = measured[name][OF_ROWS]
            cells.append(f"{found[part]:.0f} ({found[part] / sum(found.values()):.1%})")
        body.append((part, *cells))
    return "\n".join([table(("microseconds a row (of all)", *models), body), source(measured)])


def batch_workers() -> str:
    """Rows a second of workers on Ray beside threads of one process."""
    measured = results("batch")
    models = [name for name, value in measured.items() if isinstance(value, dict) and OF_ROWS in value]
    ways = list(measured[models[0]]["rows_a_second"])
    body = []
    for name in models:
        speeds = measured[name]["rows_a_second"]
        body.append((name, *(f"{speeds[way]:,.0f}" for way in ways), f"{measured[name]['ratio']:.2f}"))
    return "\n".join([table(("rows a second", *ways, "ratio"), body), source(measured)])


def batch_memory() -> str:
    """The driver's memory over a long job."""
    measured = results("batch_memory")
    sizes = [size for _, size in measured["seconds_and_bytes"]]
    settled = sizes[len(sizes) // 4 :]
    body = [
        (
            f"{measured['lines']:,}",
            f"{measured['seconds']:.0f}",
            f"{min(settled) / 1e6:.0f} to {max(settled) / 1e6:.0f}",
            f"{measured['growth_megabytes']:+.1f}",
        )
    ]
    head = ("lines", "seconds", "MB of the driver, from a quarter of the time on", "MB more by its slope")
    return "\n".join([table(head, body, texts=0), source(measured)])


def serving() -> str:
    """Servers beside each other: latency and throughput."""
    measured = results("serving")
    body = []
    for row in measured["rows"]:
        ratio = row["throughput_over_best_peer"]
        body.append(
            (
                row["server"],
                str(row["connections"]),
                *(short(row[f"p{percent}_ms"]) for percent in (50, 95, 99)),
                f"{row['requests_per_second']:.0f}",
                "" if ratio is None else f"**{ratio:.2f}**",
                short(row["cpu_ms_per_request"]),
            )
        )
    head = (
        "server",
        "connections",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "requests/s",
        "over the best other",
        "CPU a request, ms",
    )
    alone = "; ".join(f"{name} {short(ms)} ms" for name, ms in measured["bare_p50_ms"].items())
    said = f"\nWithout a server, one sentence at a time: {alone}."
    return "\n".join([table(head, body), said, source(measured)])


def serving_soak() -> str:
    """Requests of all sizes for minutes: the server's memory, and what was answered that shouldn't have been."""
    measured = results("serving_soak")
    memory = [f"{measured[name]:.0f}" for name in ("first_mib", "half_mib", "last_mib")]
    wrong = sum(measured["faults"].values())
    body = [(f"{measured['requests']:,}", f"{measured['seconds']:.0f}", str(wrong), *memory)]
    head = ("requests", "seconds", "wrong answers", "MiB at first", "MiB at half time", "MiB at last")
    return "\n".join([table(head, body, texts=0), source(measured)])


TABLES = {
    "batch-costs": batch_costs,
    "batch-workers": batch_workers,
    "batch-memory": batch_memory,
    "serving": serving,
    "serving-soak": serving_soak,
}
