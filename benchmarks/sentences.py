"""Real sentences in batches of 32, as they come: sentences a second, with and without padding.

    python -m benchmarks.sentences --out benchmarks/results

prints the table and writes sentences.json and sentences.svg. README.md says what it means.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.agreement import check
from benchmarks.command import about, add_precisions, console, exit_with, parser_for, positive, prepare
from benchmarks.minilm import minilm_directory
from benchmarks.peers import (
    EAGER,
    ENGINES,
    UNPADDED,
    Engine,
    Forward,
    Inputs,
    build,
    forget_compiled,
    run,
)
from benchmarks.report import cpu_model, write_json
from benchmarks.sst2 import BATCH, batches, read_sentences
from benchmarks.subjects import Subject, squeezebert_base
from squeezebert_fast import SqueezeBertTokenizerFast
from squeezebert_fast.benchmark import Case, Report, Timing, check_plot, measure

# Those that take any shape well: of ours padded, float32 shows what leaving out the padding brings.
WANTED = (
    *(e for e in ENGINES if e.precision == "float32" and e.family != "transformers patched"),
    *(e for e in ENGINES if e.family == "OpenVINO" and e.precision == "bfloat16"),
    *UNPADDED,
)


def measure_batch(forwards: dict[Engine, Forward], inputs: Inputs, repeats: int) -> list[Timing]:
    candidates = {engine.name: partial(run, forward, inputs) for engine, forward in forwards.items()}
    return measure(candidates, repeats, warmup=1)


def over_all(per_batch: Sequence[Sequence[Timing]]) -> tuple[Timing, ...]:
    """Seconds for all batches together, engine by engine and round by round."""
    return tuple(
        Timing(timings[0].name, tuple(map(sum, zip(*(timing.seconds for timing in timings), strict=True))))
        for timings in zip(*per_batch, strict=True)
    )


def check_all(forwards: dict[Engine, Forward], subject: Subject, inputs: Inputs) -> None:
    expected: Tensor = run(forwards[EAGER], inputs)
    for engine, forward in forwards.items():
        actual = run(forward, inputs)
        check(f"{engine.name}, {subject.name} on sentences", engine.precision, actual, expected, inputs[1])


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
    with tempfile.TemporaryDirectory() as folder:
        subject = squeezebert_base(Path(folder))
        forget_compiled()
        forwards, skipped = build(subject, wanted, None)
        for name, reason in skipped.items():
            shown.print(f"without {name}: {reason}")
        check_all(forwards, subject, inputs[0])
        per_batch = [
            measure_batch(forwards, each, chosen.repeats) for each in track(inputs, "batches", console=shown)
        ]
    timings = over_all(per_batch)

    table = Table("engine", title=f"SST-2 dev, {torch.get_num_threads()} threads", title_justify="left")
    for column in ("sentences/s", "p20 .. p80", f"over {EAGER.name}"):
        table.add_column(column, justify="right")
    rows = []
    for timing in timings:
        low, middle, high = (len(sentences) / timing.percentile(percent) for percent in (80, 50, 20))
        speed_up = timings[0].median / timing.median
        table.add_row(timing.name, f"{middle:.1f}", f"{low:.1f} .. {high:.1f}", f"{speed_up:.2f}")
        rows.append(
            {
                "candidate": timing.name,
                "sentences_per_second": middle,
                "p20_sentences_per_second": low,
                "p80_sentences_per_second": high,
                "speed_up": speed_up,
                "seconds": list(timing.seconds),
            }
        )
    shown.print(table)
    counts = {"sentences": len(sentences), "tokens": tokens, "tokens_with_padding": padded, "batch": BATCH}
    write_json(chosen.out / "sentences.json", {**where, **counts, "rows": rows})
    title = f"SST-2 dev, {len(sentences)} sentences, batches of {BATCH}\n{cpu_model()}"
    Report(title, (Case("all batches", timings),)).plot(plot)
    shown.print(f"wrote {plot.with_suffix('.json')} and .svg")


if __name__ == "__main__":
    exit_with(main)
