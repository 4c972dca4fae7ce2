"""Real sentences in batches of 32, as they come: sentences a second, with and without padding.

    python -m benchmarks.sentences --out benchmarks/results

prints the table and writes sentences.json and sentences.svg. README.md says what it means.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.command import about, add_precisions, console, exit_with, parser_for, positive, prepare
from benchmarks.minilm import minilm_directory
from benchmarks.peers import EAGER, ENGINES, UNPADDED, Engine, start_engines
from benchmarks.report import best_peer, cpu_title, write_json
from benchmarks.sst2 import BATCH, batches, read_sentences
from benchmarks.subjects import squeezebert_base
from squeezebert_fast import SqueezeBertTokenizerFast
from squeezebert_fast.benchmark import Case, Report, Timing, Turns, check_plot
from squeezebert_fast.benchmark.turns import DROPPED, KEPT

# Those that take any shape well: of ours padded, float32 shows what leaving out the padding brings.
WANTED = (
    *(e for e in ENGINES if e.precision == "float32" and e.family != "transformers patched"),
    *(e for e in ENGINES if e.peer and e.precision == "bfloat16"),
    *UNPADDED,
)


def turns_over(count: int) -> list[list[tuple[int]]]:
    """Turns in which each of `count` batches counts once, in their order; dropped are the batches before a turn's."""
    return [
        [(number % count,) for number in range(start - DROPPED, min(start + KEPT, count))]
        for start in range(0, count, KEPT)
    ]


def over_all(timing: Timing, count: int) -> Timing:
    """Seconds for `count` batches together, round by round."""
    starts = range(0, len(timing.seconds), count)
    return Timing(timing.name, tuple(sum(timing.seconds[start : start + count]) for start in starts))


def rows_of(timings: Sequence[Timing], engines: Mapping[str, Engine], sentences: int) -> list[dict[str, Any]]:
    """What is written of each engine: sentences a second, against the first's and the best peer's."""
    peers = [(engines[each.name].precision, each) for each in timings if engines[each.name].peer]
    rows = []
    for timing in timings:
        low, middle, high = (sentences / timing.percentile(percent) for percent in (80, 50, 20))
        precision = engines[timing.name].precision
        peer = best_peer(precision, peers)
        rows.append(
            {
                "candidate": timing.name,
                "precision": precision,
                "sentences_per_second": middle,
                "p20_sentences_per_second": low,
                "p80_sentences_per_second": high,
                "baseline": timings[0].name,
                "speed_up": timings[0].median / timing.median,
                "best_peer": None if peer is None else peer.name,
                "speed_up_over_best_peer": None if peer is None else peer.median / timing.median,
                "seconds": list(timing.seconds),
            }
        )
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("engine", title=f"SST-2 dev, {torch.get_num_threads()} threads", title_justify="left")
    for column in ("sentences/s", "p20 .. p80", f"over {rows[0]['baseline']}", "over best peer"):
        table.add_column(column, justify="right")
    for row in rows:
        low, middle, high = (row[f"{part}sentences_per_second"] for part in ("p20_", "", "p80_"))
        over = row["speed_up_over_best_peer"]
        cells = f"{middle:.1f}", f"{low:.1f} .. {high:.1f}", f"{row['speed_up']:.2f}"
        table.add_row(row["candidate"], *cells, "" if over is None else f"{over:.2f}")
    return table


def main() -> None:
    parser = parser_for("sentences", __doc__, repeats=3)
    add_precisions(parser)
    parser.add_argument("--batches", type=positive, default=None, metavar="N", help="stop after N batches")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    chosen = parser.parse_args()
    prepare(chosen)
    plot = chosen.out / "sentences.svg"
    check_plot(plot)
    sentences = read_sentences(chosen.batches and BATCH * chosen.batches)
    tokenizer = SqueezeBertTokenizerFast(minilm_directory() / "vocab.txt")
    where, shown = about("sentences", chosen.repeats), console()
    inputs = batches(tokenizer, sentences)
    tokens = sum(int(mask.sum()) for _, mask in inputs)
    padded = sum(mask.numel() for _, mask in inputs)
    shown.print(
        f"{len(sentences)} sentences, {tokens} tokens, {padded} with padding ({1 - tokens / padded:.0%})"
    )

    wanted = [
        engine
        for engine in WANTED
        if engine == EAGER
        or (
            engine.precision in chosen.precisions
            and not (chosen.no_compile and engine.family == "torch.compile")
        )
    ]
    with tempfile.TemporaryDirectory() as folder, Turns(torch.get_num_threads(), shown) as turns:
        path = Path(folder, "batches.pt")
        torch.save(inputs, path)
        subject = squeezebert_base(Path(folder))
        engines = start_engines(turns, subject, wanted, None, batches=path)
        # The first round is what is slow once for each shape, such as compiling for it.
        measured = turns.measure(list(engines), turns_over(len(inputs)) * (1 + chosen.repeats))
        left_out = dict(turns.failed)
    timings = [over_all(Timing(each.name, each.seconds[len(inputs) :]), len(inputs)) for each in measured]
    if not timings:
        sys.exit("error: no engine could be measured")
    rows = rows_of(timings, engines, len(sentences))
    shown.print(table_of(rows))
    reasons = [{"candidate": name, "reason": reason} for name, reason in left_out.items()]
    counts = {"sentences": len(sentences), "tokens": tokens, "tokens_with_padding": padded, "batch": BATCH}
    write_json(chosen.out / "sentences.json", {**where, **counts, "rows": rows, "left_out": reasons})
    title = f"SST-2 dev, {len(sentences)} sentences, batches of {BATCH}\n{cpu_title()}"
    Report(title, (Case("all batches", tuple(timings)),)).plot(plot)
    shown.print(f"wrote {plot.with_suffix('.json')} and .svg")


if __name__ == "__main__":
    exit_with(main)
