"""What `benchmarks.gpu_check` found, as Markdown tables, plots, and the list of what is not as it should be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.gpu_plan import STEPS, TRAINED
from benchmarks.gpu_steps import EAGER, GRAPHS, OURS, PATCHED, PRODUCT
from benchmarks.gpu_training import COMPILED_EAGER
from benchmarks.gpu_training_report import curve_lines, draw_curves, memory_lines
from benchmarks.report import shape_name
from squeezebert_fast.benchmark import milliseconds

Rows = list[dict[str, Any]]


def unmet(results: dict[str, Any]) -> list[str]:
    """Failures: tests, the memory checker, and steps or candidates that ended in an error. Speed is no failure."""
    problems = []
    for name, result in results.items():
        if not isinstance(result, dict):
            continue
        if "error" in result:
            problems.append(f"{name}: {result['error']}")
        if result.get("failed") or result.get("timed_out") or result.get("status"):
            problems.append(f"{name}: status {result.get('status')}, failed {result.get('failed')}")
        problems += [f"{name}: {candidate}: {error}" for candidate, error in _wrong(name, result)]
    return problems


def _wrong(name: str, result: dict[str, Any]) -> list[tuple[str, str]]:
    # a tile that the device is too small for is a finding
    return [] if name.startswith("tiles_") else list(result.get("errors", {}).items())


def report(results: dict[str, Any], out: Path) -> str:
    """Markdown; plots go to `out` where matplotlib is installed."""
    parts = [_head(results)]
    if not results["dry_run"]:
        parts.append(_goals(results))
    for name in STEPS:
        result = results.get(name)
        if result and name != "about":
            parts.append(_step(name, result))
    if importlib.util.find_spec("matplotlib") and not results["dry_run"]:
        parts += [f"![{path.stem}]({path.name})" for path in _plots(results, out)]
    return "\n\n".join(parts) + "\n"


def _head(results: dict[str, Any]) -> str:
    about = results.get("about", {})
    gpu = about.get("gpu", {})
    versions = about.get("versions", {})
    lines = ["# GPU check"]
    if results["dry_run"]:
        lines.append("**A dry run: every step on the CPU, in Triton's interpreter. It measures nothing.**")
    if gpu:
        lines.append(f"{gpu['name']}, {gpu['multiprocessors']} multiprocessors, CUDA {gpu['cuda']}")
    if about and "error" not in about:
        lines.append(
            f"{about['date']}, commit {about['git_commit']}, Python {about['python']}, torch {versions['torch']}, "
            f"triton {about['triton']}, transformers {versions['transformers']}"
        )
    for name in ("tests", "sanitizer", "sanitizer_training"):
        if name in results:
            lines.append(f"{name}: {_outcome(results[name])}")
    return "\n\n".join(lines)


def _outcome(result: dict[str, Any]) -> str:
    if "skipped" in result or "error" in result:
        return str(result.get("skipped") or result["error"])
    counts = ", ".join(f"{number} {word}" for word, number in result["counts"].items())
    late = " (stopped: it took too long)" if result["timed_out"] else ""
    return ", ".join(filter(None, [counts, result.get("summary")])) + late


def times(results: dict[str, Any], step: str) -> dict[str, dict[str, Any]]:
    """By candidate, the rows of a step that were timed."""
    rows: Rows = results.get(step, {}).get("rows", [])
    return {row["candidate"]: row for row in rows if row["median_ms"]}


def ratio(results: dict[str, Any], step: str, slow: str, fast: str, key: str = "median_ms") -> float | None:
    rows = times(results, step)
    if slow not in rows or fast not in rows or not rows[fast][key]:
        return None
    return rows[slow][key] / rows[fast][key]


def _best_ratio(results: dict[str, Any], step: str, fast: str, prefix: str) -> float | None:
    """Over the fastest of the candidates whose name starts so."""
    ratios = [ratio(results, step, name, fast) for name in times(results, step) if name.startswith(prefix)]
    return min((r for r in ratios if r), default=None)


def _goals(results: dict[str, Any]) -> str:
    graphs = times(results, "latency").get(GRAPHS)
    found: list[tuple[str, float | None, float, str]] = []
    for shape in ("256x128", "64x512"):
        step = f"model_{shape}"
        found.append(
            (f"{shape}: of the square product's rate", ratio(results, step, OURS, PRODUCT, "tflops"), 0.6, "")
        )
        found.append((f"{shape}: times as fast as eager", ratio(results, step, EAGER, OURS), 4.0, ""))
        compiled = _best_ratio(results, f"compile_{shape}", OURS, "torch.compile")
        found.append((f"{shape}: times as fast as torch.compile", compiled, 2.0, ""))
    found.append(
        ("1x128 with CUDA graphs, ms from call to result", graphs and graphs["median_ms"], 0.25, "at most ")
    )
    found.append(
        ("1x128 with CUDA graphs: times as fast as eager", ratio(results, "latency", EAGER, GRAPHS), 8.0, "")
    )
    unpad = ratio(results, "ragged", OURS, f"{OURS}, unpad")
    found.append(("lengths 5 to 128: padding-free over padded", unpad, 1.7, ""))
    found += _training_goals(results)
    lines = ["## Goals", "| | measured | goal | |", "| --- | --- | --- | --- |"]
    for what, value, goal, most in found:
        verdict = (
            "not measured"
            if value is None
            else "met"
            if (value <= goal if most else value >= goal)
            else "missed"
        )
        lines.append(f"| {what} | {_number(value)} | {most or 'at least '}{goal:g} | {verdict} |")
    return "\n".join(["\n".join(lines[:1]) + "\n", *lines[1:]])


def _training_goals(results: dict[str, Any]) -> list[tuple[str, float | None, float, str]]:
    found: list[tuple[str, float | None, float, str]] = []
    for shape in map(shape_name, TRAINED):
        step, name = f"training_{shape}", f"training step, {shape}"
        compiled = ratio(results, f"training_compile_{shape}", COMPILED_EAGER, PATCHED)
        memory = ratio(results, step, PATCHED, EAGER, "step_bytes")
        found.append((f"{name}: times as fast as eager", ratio(results, step, EAGER, PATCHED), 3.0, ""))
        found.append((f"{name}: times as fast as torch.compile", compiled, 1.7, ""))
        found.append((f"{name}: of eager's memory", memory, 0.5, "at most "))
    share = ratio(results, "training_64x512", PATCHED, PRODUCT, "tflops")
    found.append(("training step, 64x512: of the square product's rate", share, 0.45, ""))
    return found


def _step(name: str, result: dict[str, Any]) -> str:
    lines = [f"## {name}" + (f": {result['case']}" if "case" in result else ""), ""]
    if "error" in result:
        return f"{lines[0]}\n\n{result['error']}"
    if "runs" in result:
        return "\n".join([*lines, *curve_lines(result)])
    rows: Rows = result.get("rows", [])
    ceilings = {row["candidate"]: row for row in rows}
    product = ceilings.get(PRODUCT, {}).get("tflops")
    copy = ceilings.get("copy", {}).get("gbytes_per_second")
    eager = ceilings.get(EAGER, {}).get("median_ms")
    lines += ["| | median | p20 .. p80 | over eager | TFLOP/s | of the product | GB/s | of the copy |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        spread = "" if row["p20_ms"] is None else milliseconds(row["p20_ms"] / 1e3, row["p80_ms"] / 1e3)
        over = eager / row["median_ms"] if eager and row["median_ms"] else None
        cells = [
            row["candidate"],
            "" if row["median_ms"] is None else milliseconds(row["median_ms"] / 1e3),
            spread,
            _number(over),
            _number(row["tflops"]),
            _share(row["tflops"], product),
            _number(row["gbytes_per_second"]),
            _share(row["gbytes_per_second"], copy),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += memory_lines(rows)
    if "real_tokens" in result:
        lines += ["", f"Real tokens: {result['real_tokens']:.0%} of the padded batch; TFLOP/s count theirs."]
    for reason in result.get("graphs_not_used", []):
        lines += ["", f"No CUDA graph: {reason}"]
    for candidate, error in result.get("errors", {}).items():
        lines += ["", f"Left out: {candidate}: {error}"]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _share(value: float | None, of: float | None) -> str:
    return f"{value / of:.0%}" if value and of else ""


def _plots(results: dict[str, Any], out: Path) -> list[Path]:
    """Bars: times as fast as eager by shape, and each pass against the two ceilings."""
    from matplotlib.figure import Figure

    made = []
    shapes = [name for name in STEPS if name.startswith("model_") and EAGER in times(results, name)]
    if shapes:
        figure = Figure(figsize=(3.2 * len(shapes), 3.2), layout="constrained")
        for axes, step in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
            rows = {n: r for n, r in times(results, step).items() if n != PRODUCT}
            axes.barh(
                list(rows), [times(results, step)[EAGER]["median_ms"] / r["median_ms"] for r in rows.values()]
            )
            axes.invert_yaxis()
            axes.set_title(step.removeprefix("model_"), fontsize=9)
            axes.tick_params(labelsize=7)
        figure.supxlabel(f"times as fast as {EAGER}", fontsize=9)
        made.append(_save(figure, out / "gpu_models.svg"))
    steps = [name for name in STEPS if name.startswith("passes_") and PRODUCT in times(results, name)]
    if steps:
        figure = Figure(figsize=(3.6 * len(steps), 3.2), layout="constrained")
        for axes, step in zip(figure.subplots(1, len(steps), squeeze=False)[0], steps, strict=True):
            rows = times(results, step)
            names = [name for name in rows if name not in (PRODUCT, "copy")]
            for offset, key, ceiling in ((-0.2, "tflops", PRODUCT), (0.2, "gbytes_per_second", "copy")):
                top = rows.get(ceiling, {}).get(key)
                shares = [(rows[n][key] or 0.0) / top if top else 0.0 for n in names]
                axes.barh(
                    [i + offset for i in range(len(names))], shares, height=0.4, label=f"of the {ceiling}"
                )
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.invert_yaxis()
            axes.set_title(step.removeprefix("passes_"), fontsize=9)
        axes.legend(fontsize=7)
        made.append(_save(figure, out / "gpu_passes.svg"))
    curves = results.get("training_curves", {}).get("runs")
    return [*made, draw_curves(curves, out / "gpu_training_curves.png")] if curves else made


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    return path
