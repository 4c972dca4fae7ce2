"""A server of MiniLM's vectors beside infinity-emb: latency and throughput at 1, 8 and 64 connections, and a soak.

    python -m benchmarks.serving --infinity ../infinity-venv/bin/infinity_emb --out benchmarks/results
    python -m benchmarks.serving --soak 100000 --out benchmarks/results

prints the table and writes serving.json, or serving_soak.json. README.md says what they mean.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from benchmarks.agreement import check_embeddings
from benchmarks.command import about, console, exit_with, parser_for, positive, prepare
from benchmarks.minilm import minilm_directory
from benchmarks.report import cpu_title, write_json
from benchmarks.serving_bare import ALONE, BareModel
from benchmarks.serving_client import Answers, Client, Request
from benchmarks.serving_servers import MODEL_NAME, OURS, Running, Server, infinity, running, squeezebert
from benchmarks.serving_soak import lines_of, small_model, soak
from benchmarks.sst2 import read_sentences
from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark import CandidateFailed, Timing, Turns, milliseconds

CONNECTIONS = (1, 8, 64)
WARM_SECONDS = 1.0
CHECKED = 64
"""Sentences whose vectors each server's are held against."""
VECTOR_BYTES = 384 * 4 * 4 // 3
"""Of MiniLM's in base64."""
MEASURED_SECONDS, SOAK_SECONDS = 6, 1500
ANSWER_SECONDS = 300.0
"""Besides what is measured: for loading, and for the last answers."""

Vectors = NDArray[np.float32]


def body_of(text: str) -> bytes:
    """A question for one vector, as OpenAI's client asks it."""
    return json.dumps({"input": text, "model": MODEL_NAME, "encoding_format": "base64"}).encode()


def requests_for(path: str, sentences: Sequence[str]) -> list[Request]:
    return [Request(path, body_of(text), vectors=1, least_bytes=VECTOR_BYTES) for text in sentences]


def vectors_of(started: Running, sentences: Sequence[str]) -> Vectors:
    """What a server answers, one sentence at a time."""
    answers = [json.loads(started.post(body_of(text)))["data"][0]["embedding"] for text in sentences]
    return np.stack([np.frombuffer(base64.b64decode(each), np.float32) for each in answers])


def figures_of(answers: Answers, cpu_seconds: float) -> dict[str, float]:
    """Of one run: milliseconds that 50, 95 and 99 of 100 answers took at most, answers a second, CPU time of each.

    cpu_seconds: of all the server's processes meanwhile.
    """
    found, count = Timing("", tuple(answers.seconds)), len(answers.seconds)
    times = {f"p{percent}_ms": 1e3 * found.percentile(percent) for percent in (50, 95, 99)}
    rate, cpu = count / answers.elapsed, 1e3 * cpu_seconds / count
    return {**times, "requests_per_second": rate, "cpu_ms_per_request": cpu}


def row_of(server: str, connections: int, rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What is written of a server at so many connections: the median of each figure, and each round's."""
    medians = {name: float(np.median([each[name] for each in rounds])) for name in rounds[0]}
    return {
        "server": server,
        "connections": connections,
        **medians,
        "rounds": [dict(each) for each in rounds],
    }


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row, and in ours its throughput over the best peer's at as many connections, if there is a peer."""
    result = []
    for row in rows:
        rivals = [
            each for each in rows if each["connections"] == row["connections"] and each["server"] != OURS
        ]
        best = max(rivals, key=lambda each: each["requests_per_second"], default=None)
        if row["server"] == OURS and best is not None:
            name, ratio = best["server"], row["requests_per_second"] / best["requests_per_second"]
        else:
            name = ratio = None
        result.append({**row, "best_peer": name, "throughput_over_best_peer": ratio})
    return result


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    title = f"MiniLM-L6, one sentence of SST-2 a request, {torch.get_num_threads()} threads, {cpu_title()}"
    table = Table(Column("server", no_wrap=True), title=title, title_justify="left")
    for column in ("connections", "p50", "p95", "p99", "requests/s", "over best peer", "CPU a request"):
        table.add_column(column, justify="right")
    for row in rows:
        times = [milliseconds(row[f"p{percent}_ms"] / 1e3) for percent in (50, 95, 99)]
        ratio = row["throughput_over_best_peer"]
        cells = [*times, f"{row['requests_per_second']:.0f}", "" if ratio is None else f"{ratio:.2f}"]
        cells.append(milliseconds(row["cpu_ms_per_request"] / 1e3))
        table.add_row(row["server"], str(row["connections"]), *cells)
    return table


def peers(chosen: argparse.Namespace, folder: Path, shown: Console) -> list[Server]:
    """infinity-emb with its two engines for CPUs, of what is there; why not is told."""
    program: Path | None = chosen.infinity
    if program is None or not program.exists():
        where = "--infinity names it" if program is None else f"there is none at {program}"
        shown.print(f"without infinity-emb: {where}. README.md says how to install it", markup=False)
        return []
    # compiling again for each new length costs torch more than it brings; the rest is what helps either engine
    usual = ["--batch-size", str(chosen.infinity_batch), "--no-compile"]
    found = [infinity(program, minilm_directory(), "torch", usual)]
    exported = folder / "onnx"
    export = [str(program.with_name("optimum-cli")), "export", "onnx", "--task", "feature-extraction"]
    try:
        subprocess.run(
            [*export, "--model", str(minilm_directory()), str(exported)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        shown.print(f"without infinity, optimum: {error}", markup=False)
        return found
    best = ["--pooling-method", "mean", "--onnx-do-not-prefer-quantized", "--no-onnx-disable-optimize"]
    return [*found, infinity(program, exported, "optimum", [*usual, *best])]


def measure(
    turns: Turns, server: Server, seconds: float, sentences: Sequence[str], expected: Vectors, folder: Path
) -> dict[int, dict[str, float]]:
    """One round of a server: its figures by connections. Raises WrongEngine, and CandidateFailed for a bad answer."""
    with running(server, folder) as started:
        actual = vectors_of(started, sentences[: len(expected)])
        check_embeddings(server.name, server.precision, actual, expected)
        ask = partial(turns.ask, f"client of {server.path}", Client.run, started.port)
        ask(CONNECTIONS[-1], WARM_SECONDS)
        found = {}
        for connections in CONNECTIONS:
            before = started.cpu_seconds()
            answers: Answers = ask(connections, seconds)
            for fault, times in answers.faults.most_common(1):
                raise CandidateFailed(f"{server.name}: {times} times {fault}")
            found[connections] = figures_of(answers, started.cpu_seconds() - before)
        return found


def arguments() -> argparse.Namespace:
    parser = parser_for("serving", __doc__, repeats=3)
    parser.add_argument(
        "--seconds",
        type=positive,
        default=None,
        metavar="N",
        help="of each measurement (6), or of the soak (1500)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of squeezebert_fast")
    parser.add_argument("--infinity", type=Path, metavar="PATH", help="the command infinity_emb")
    parser.add_argument("--infinity-batch", type=positive, default=32, metavar="N", help="its --batch-size")
    parser.add_argument(
        "--soak", type=positive, metavar="N", help="N requests of all sizes in place of the table"
    )
    parser.add_argument(
        "--serve",
        default="",
        metavar="OPTIONS",
        help="further options of squeezebert-fast serve, in one string",
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    prepare(chosen)
    shown = console()
    seconds = chosen.seconds or (SOAK_SECONDS if chosen.soak else MEASURED_SECONDS)
    limit = 2 * seconds + ANSWER_SECONDS
    with (
        tempfile.TemporaryDirectory() as folder,
        Turns(chosen.threads, shown, answer_seconds=limit) as turns,
    ):
        run = soaked if chosen.soak else compared
        path, content = run(chosen, turns, seconds, Path(folder), shown)
    write_json(path, content)
    shown.print(f"wrote {path}")


def soaked(
    chosen: argparse.Namespace, turns: Turns, seconds: float, folder: Path, shown: Console
) -> tuple[Path, dict[str, Any]]:
    """A soak, printed; where it is written, and what."""
    where = about("serving", None)
    server = squeezebert(small_model(folder), chosen.precision, chosen.serve.split())
    result = soak(turns, server, folder, chosen.soak, seconds, shown)
    shown.print("\n".join(lines_of(result)), markup=False, soft_wrap=True)
    return chosen.out / "serving_soak.json", {**where, **result}


def compared(
    chosen: argparse.Namespace, turns: Turns, seconds: float, folder: Path, shown: Console
) -> tuple[Path, dict[str, Any]]:
    """The servers beside each other, printed; where it is written, and what."""
    where, sentences = about("serving", chosen.repeats), read_sentences()
    ours = squeezebert(minilm_directory(), chosen.precision, chosen.serve.split())
    servers = [ours, *peers(chosen, folder, shown)]
    turns.start("bare", partial(BareModel, chosen.precision, sentences))
    expected = turns.ask("bare", BareModel.reference, CHECKED)
    for path in {server.path for server in servers}:
        turns.start(f"client of {path}", partial(Client, requests_for(path, sentences)))
    rounds: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    alone: dict[str, list[float]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for number in range(chosen.repeats):
        for name, times in turns.ask("bare", BareModel.seconds, seconds / 2).items():
            alone[name].append(1e3 * Timing(name, times).median)
        # The other way round every second time, so that none always has the machine as another left it.
        for server in servers[:: -1 if number % 2 else 1]:
            if server.name in left_out:
                continue
            try:
                found = measure(turns, server, seconds, sentences, expected, folder)
            except CandidateFailed as failure:
                left_out[server.name] = str(failure)
                shown.print(f"without {server.name}: {failure}", markup=False)
                continue
            for connections, figures in found.items():
                rounds[server.name, connections].append(figures)
    measured = [server for server in servers if server.name not in left_out]
    rows = with_ratios(
        [row_of(each.name, count, rounds[each.name, count]) for each in measured for count in CONNECTIONS]
    )
    if not rows:
        sys.exit("error: no server could be measured")
    shown.print(table_of(rows))
    bare = {name: float(np.median(times)) for name, times in alone.items()}
    shown.print(bare_line(bare, rows), markup=False, soft_wrap=True)
    reasons = [{"server": name, "reason": reason} for name, reason in left_out.items()]
    content = {
        "seconds": seconds,
        "bare_p50_ms": bare,
        "bare_rounds_ms": dict(alone),
        "commands": {server.name: server.shown_command() for server in servers},
        "rows": rows,
        "left_out": reasons,
    }
    return chosen.out / "serving.json", {**where, **content}


def bare_line(bare: Mapping[str, float], rows: Sequence[dict[str, Any]]) -> str:
    """How long one sentence takes without a server, and what ours adds to it."""
    said = "; ".join(f"{name} {milliseconds(ms / 1e3)}" for name, ms in bare.items())
    ours = [row["p50_ms"] for row in rows if row["server"] == OURS and row["connections"] == 1]
    added = [f"; {OURS} at 1 connection {ms - bare[ALONE]:+.2f} ms over the model alone" for ms in ours]
    return f"p50 of one sentence in one process: {said}{''.join(added)}"


if __name__ == "__main__":
    exit_with(main)
