"""MiniLM under sentence-transformers in every engine: sentences a second, one query's latency, and accuracy.

    python -m benchmarks.embedding --out benchmarks/results

prints the tables and writes embedding.json and embedding.svg. README.md says what they mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Column, Table

from benchmarks.command import about, add_precisions, console, exit_with, parser_for, positive, prepare
from benchmarks.encoders import ENCODERS, FAMILIES, TORCH, Encoder, EncoderRunner, start_encoders
from benchmarks.minilm import minilm_directory
from benchmarks.passes import MODELS
from benchmarks.report import cpu_title, shape_name, write_json
from benchmarks.sst2 import BATCH, read_sentences
from squeezebert_fast import SqueezeBertConfig, SqueezeBertTokenizerFast
from squeezebert_fast.benchmark import (
    Case,
    Peaks,
    Report,
    Timing,
    Turns,
    check_plot,
    encoder_flops,
    milliseconds,
)
from squeezebert_fast.benchmark.turns import DROPPED

TOKENS = (8, 16, 32)
"""Lengths of the queries, special tokens among them."""

QUERIES, ROUNDS = 4, 3
"""Different queries of each length, and how often one turn asks them all."""

Turn = list[tuple[Any, ...]]


def queries_of(tokens: int, sentences: Iterable[str]) -> list[str]:
    """The first QUERIES sentences that have so many tokens."""
    tokenizer = SqueezeBertTokenizerFast(minilm_directory() / "vocab.txt")
    fitting = (each for each in sentences if len(tokenizer(each)["input_ids"]) == tokens)
    return [query for query, _ in zip(fitting, range(QUERIES), strict=False)]


def turns_by_case(count: int, queries: Mapping[int, Sequence[str]]) -> dict[str, Turn]:
    """A turn of each case. Dropped of the first are calls with one batch, of the others the last two queries."""
    turns = {
        "all sentences": [
            *[(EncoderRunner.encode, min(count, BATCH))] * DROPPED,
            (EncoderRunner.encode, count),
        ]
    }
    works = {"encode": EncoderRunner.encode_query, "model alone": EncoderRunner.forward_query}
    for name, work in works.items():
        for tokens, texts in queries.items():
            calls = [(work, text) for text in texts] * ROUNDS
            turns[f"{shape_name((1, tokens))}, {name}"] = calls[-DROPPED:] + calls
    return turns


def flops_of(sentences: Iterable[str]) -> int:
    """Operations of MiniLM's layers for the sentences' tokens, those of padding not among them."""
    tokenizer = SqueezeBertTokenizerFast(minilm_directory() / "vocab.txt")
    config = SqueezeBertConfig(**MODELS["minilm"])
    return sum(encoder_flops(config, 1, len(tokenizer(each)["input_ids"])) for each in sentences)


def rows_of(
    case: str,
    timings: Sequence[Timing],
    encoders: Mapping[str, Encoder],
    flops: int = 0,
    peaks: Mapping[str, float | None] | None = None,
) -> list[dict[str, Any]]:
    """What is written of each: its times, against the first's, the best peer's of its precision and of any.

    flops: of a call. peaks: operations a second of which the machine is capable, by precision.
    """
    peers = [each for each in timings if encoders[each.name].peer]
    rows = []
    for timing in timings:
        precision = encoders[timing.name].precision
        row = {
            "case": case,
            "candidate": timing.name,
            "precision": precision,
            **{
                f"{name}_ms": 1e3 * timing.percentile(at)
                for name, at in (("p20", 20), ("median", 50), ("p80", 80))
            },
            "baseline": timings[0].name,
            "speed_up": timings[0].median / timing.median,
            "ms": [1e3 * seconds for seconds in timing.seconds],
        }
        if peak := (peaks or {}).get(precision):
            row |= {"peak_flops_per_second": peak, "fraction_of_peak": flops / timing.median / peak}
        for name, rivals in (
            (
                "best_peer_of_precision",
                [each for each in peers if encoders[each.name].precision == precision],
            ),
            ("best_peer", peers),
        ):
            best = min(rivals, key=lambda each: each.median, default=None)
            row[name] = None if best is None else best.name
            row[f"speed_up_over_{name}"] = None if best is None else best.median / timing.median
        rows.append(row)
    return rows


def table_of(
    rows: Sequence[dict[str, Any]],
    *,
    sentences: int = 0,
    cosines: Mapping[str, NDArray[np.float32]] | None = None,
) -> Table:
    """The rows of one case: milliseconds, or sentences a second where a call is `sentences`; with `cosines` these."""
    title = f"{rows[0]['case']}, {torch.get_num_threads()} threads"
    table = Table(Column("engine", no_wrap=True), title=title, title_justify="left")
    unit = "sentences/s" if sentences else "median"
    accuracy = () if cosines is None else ("mean cosine", "least")
    over = (f"over {rows[0]['baseline']}", "over best of its precision", "over best")
    for column in (unit, "p20 .. p80", *over, "of own peak", *accuracy):
        table.add_column(column, justify="right")
    for row in rows:
        low, middle, high = row["p20_ms"], row["median_ms"], row["p80_ms"]
        if sentences:
            low, middle, high = (1e3 * sentences / each for each in (high, middle, low))
            cells = [f"{middle:.0f}", f"{low:.0f} .. {high:.0f}"]
        else:
            cells = [milliseconds(middle / 1e3), milliseconds(low / 1e3, high / 1e3)]
        keys = ("speed_up", "speed_up_over_best_peer_of_precision", "speed_up_over_best_peer")
        cells += ["" if row[key] is None else f"{row[key]:.2f}" for key in keys]
        cells.append(f"{row['fraction_of_peak']:.0%}" if "fraction_of_peak" in row else "")
        if cosines is not None:
            own = cosines[row["candidate"]]
            cells += [f"{own.mean():.5f}", f"{own.min():.4f}"]
        table.add_row(row["candidate"], *cells)
    return table


def arguments() -> argparse.Namespace:
    parser = parser_for("embedding", __doc__, repeats=7)
    add_precisions(parser)
    parser.add_argument("--engines", choices=FAMILIES, nargs="+", default=FAMILIES, metavar="NAME")
    parser.add_argument("--sentences", type=positive, default=None, metavar="N", help="the first N only")
    parser.add_argument("--no-queries", action="store_true", help="leave out one query at a time")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    prepare(chosen)
    plot = chosen.out / "embedding.svg"
    check_plot(plot)
    every = read_sentences()
    sentences = every[: chosen.sentences]
    queries = {} if chosen.no_queries else {tokens: queries_of(tokens, every) for tokens in TOKENS}
    where, shown = about("embedding", chosen.repeats), console()
    wanted = [e for e in ENCODERS[1:] if e.precision in chosen.precisions and e.family in chosen.engines]
    encoders = {encoder.name: encoder for encoder in (TORCH, *wanted)}
    flops = {"all sentences": flops_of(sentences)}
    for tokens, asked in queries.items():
        for work in ("encode", "model alone"):
            flops[f"{shape_name((1, tokens))}, {work}"] = flops_of(asked[:1])
    with tempfile.TemporaryDirectory() as folder, Turns(torch.get_num_threads(), shown) as turns:
        texts = [text for each in queries.values() for text in each]
        cosines = start_encoders(turns, list(encoders.values()), Path(folder), sentences, texts)
        peaks = Peaks(turns, [encoder.precision for encoder in encoders.values()])
        timings = {
            case: turns.measure(list(cosines), [turn] * chosen.repeats, peaks.sample)
            for case, turn in turns_by_case(len(sentences), queries).items()
        }
        at_peak = peaks.flops_per_second()
        left_out = dict(turns.failed)
    if not all(timings.values()):
        sys.exit("error: no engine could be measured")
    rows = []
    for number, (case, measured) in enumerate(timings.items()):
        rows += (own := rows_of(case, measured, encoders, flops[case], at_peak))
        shown.print(table_of(own) if number else table_of(own, sentences=len(sentences), cosines=cosines))
    accuracy = [
        {"candidate": name, "mean_cosine": own.mean().item(), "least_cosine": own.min().item()}
        for name, own in cosines.items()
    ]
    reasons = [{"candidate": name, "reason": reason} for name, reason in left_out.items()]
    content = {
        "sentences": len(sentences),
        "batch": BATCH,
        "flops": flops["all sentences"],
        "queries": {str(key): own for key, own in queries.items()},
    }
    write_json(
        chosen.out / "embedding.json",
        {**where, **content, "rows": rows, "accuracy": accuracy, "left_out": reasons},
    )
    title = f"MiniLM-L6 under sentence-transformers, {len(sentences)} sentences of SST-2\n{cpu_title()}"
    Report(title, tuple(Case(case, tuple(measured)) for case, measured in timings.items())).plot(plot)
    shown.print(f"wrote {plot.with_suffix('.json')} and .svg")


if __name__ == "__main__":
    exit_with(main)
