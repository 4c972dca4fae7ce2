"""Where a forward's time goes: the passes of the native encoder, each against the machine's limit.

    python -m benchmarks.profile --out out/bench

prints the tables and writes profile.json. README.md says what they mean.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich.table import Table

from benchmarks.command import about, add_precisions, add_shapes, console, exit_with, parser_for, prepare
from benchmarks.passes import MODELS, PassWork, base_model, native_encoder, pass_work
from benchmarks.report import Shape, shape_name, write_json
from squeezebert_fast import SqueezeBertModel, patch
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import (
    MultiplyAddPeak,
    MultiplyAddPeaks,
    encoder_flops,
    measure,
    milliseconds,
)
from squeezebert_fast.benchmark.peaks import PEAK_SAMPLE_SECONDS
from squeezebert_fast.patching.plan import engine_of, plan_of

SHAPES = ((1, 1), (1, 16), (1, 32), (1, 128), (8, 128), (1, 512))
AVX2_SHAPE = (8, 128)
FEW_TOKENS, OUTSIDE_CALLS = 64, (500, 20)
"""Calls in a row that `outside` makes: of an input of up to so many tokens, and of a longer one."""


def form_of(precision: str, shape: Shape) -> str:
    """What the encoder's products of sequences of this length run in, by its name in `cpu.NATIVE_PRECISIONS`."""
    return cpu.form_of(precision) if shape[1] >= cpu.LONG_SEQUENCE else precision


def limit_seconds(work: PassWork, peaks: MultiplyAddPeaks, precision: str, form: str) -> float:
    """What the passes' multiply-adds take at the peaks of what they run in."""
    return work.products / (peaks[form] or 1.0) + work.scores / (
        peaks[cpu.scores_precision(precision)] or 1.0
    )


def steadiness(peak: MultiplyAddPeak) -> float:
    """The peak's median sample over its best: well below 1 where somebody else used the cores meanwhile."""
    return median(peak.samples) / max(peak.samples)


@contextmanager
def preemptions() -> Iterator[list[int]]:
    """How often the kernel took a core from this process within the block."""
    counted: list[int] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    yield counted
    counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before)


def outside(model: SqueezeBertModel, input_ids: torch.Tensor, calls: int) -> list[float]:
    """Seconds that each of many calls in a row spends outside the native encoder, `input_ids` being the input.

    In a row, since what runs between calls takes the caches, and the rest of a short call is mostly waiting for memory.
    """
    engine = engine_of(model.encoder)
    assert engine is not None
    native = engine.native._native
    inside = [0.0]

    class Timed:
        def run(self, *arguments: Any) -> None:
            began = perf_counter()
            native.run(*arguments)
            inside[0] = perf_counter() - began

    engine.native._native = Timed()
    found = []
    try:
        for _ in range(calls):
            began = perf_counter()
            model(input_ids)
            found.append(perf_counter() - began - inside[0])
    finally:
        engine.native._native = native
    return found[calls // 10 :]  # without the warm-up


def profile_case(model: SqueezeBertModel, shape: Shape, precision: str, repeats: int) -> list[dict[str, Any]]:
    """A row for a tile alone, for each pass, the encoder, and what the whole model does outside it.

    That is also looking for changes, which a row of its own counts once more.
    """
    encoder = native_encoder(model, precision)
    patch(model, precision=precision)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, model.config.vocab_size, shape, generator=generator)
    x = torch.randn(*shape, model.config.hidden_size, generator=generator)
    form = form_of(precision, shape)
    peaks = MultiplyAddPeaks(dict.fromkeys((form, cpu.scores_precision(precision))))
    samples: list[dict[str, float]] = []
    tiles: list[float] = []

    def sample_rates() -> None:
        peaks.sample()
        tiles.append(cpu.tile_rate(form, torch.get_num_threads(), PEAK_SAMPLE_SECONDS))

    with torch.inference_mode():
        model(input_ids)
    engine = engine_of(model.encoder)
    assert engine is not None
    candidates = {
        "passes": lambda: samples.append(encoder.profile(x)),
        "comparison": lambda: (plan_of(model.encoder), engine.current(input_ids.numel())),
        "model": lambda: model(input_ids),
    }
    with torch.inference_mode(), preemptions() as preempted:
        _, comparison, whole = measure(candidates, repeats, between=sample_rates)
        besides = outside(model, input_ids, OUTSIDE_CALLS[input_ids.numel() > FEW_TOKENS])
    samples = samples[-repeats:]  # without the warm-up
    seconds = {name: median(sample[name] for sample in samples) for name in samples[0]}
    work = pass_work(model.config, shape)
    seconds["encoder"] = median(sum(sample.values()) for sample in samples)
    work["encoder"] = PassWork(
        sum(each.products for each in work.values()), sum(each.scores for each in work.values())
    )
    assert work["encoder"].flops == encoder_flops(model.config, *shape)
    seconds["whether anything changed"] = comparison.median
    seconds["outside the encoder"] = median(besides)
    seconds["model"] = whole.median
    common = {
        "case": shape_name(shape),
        "precision": precision,
        "instruction_set": cpu.instruction_set(),
        "peak_flops_per_second": peaks[form],
        "peak_steadiness": steadiness(peaks.by_precision[form]),
        "preemptions": preempted[0],
    }
    tile = {
        "pass": "a tile in the first-level cache",
        "fraction_of_peak": median(tiles) / (peaks[form] or 1.0),
    }
    rows = [{**common, **tile}]
    for name, spent in seconds.items():
        row = {**common, "pass": name, "median_ms": 1e3 * spent, "of_model": spent / whole.median}
        if name in work:
            row["flops"] = work[name].flops
            row["fraction_of_peak"] = work[name].flops / spent / (peaks[form] or 1.0)
            row["fraction_of_limit"] = limit_seconds(work[name], peaks, precision, form) / spent
        rows.append(row)
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    first = rows[0]
    title = (
        f"{first['case']}, {first['precision']}, {first['instruction_set']}: "
        f"peak {first['peak_flops_per_second'] / 1e9:.0f} GFLOP/s, steady to {first['peak_steadiness']:.0%}, "
        f"preempted {first['preemptions']} times"
    )
    table = Table("pass", title=title, title_justify="left")
    for column in ("median", "of the model", "of own peak", "of the limit"):
        table.add_column(column, justify="right")
    for row in rows:
        shares = [row.get(name) for name in ("of_model", "fraction_of_peak", "fraction_of_limit")]
        table.add_row(
            row["pass"],
            milliseconds(row["median_ms"] / 1e3) if "median_ms" in row else "",
            *("" if share is None else f"{share:.0%}" for share in shares),
        )
    return table


def main() -> None:
    parser = parser_for("profile", __doc__, repeats=15)
    add_shapes(parser, SHAPES)
    add_precisions(parser)
    parser.add_argument(
        "--model", choices=MODELS, default="squeezebert", help="the sizes; %(default)s by default"
    )
    parser.add_argument("--no-avx2", action="store_true", help="leave the AVX2 build out")
    chosen = parser.parse_args()
    prepare(chosen)
    cases = [(cpu.instruction_set(), shape) for shape in chosen.shapes]
    if "avx2" in cpu.instruction_sets() and not chosen.no_avx2 and cpu.instruction_set() != "avx2":
        cases.append(("avx2", AVX2_SHAPE))
    where, shown, rows = about("profile", chosen.repeats), console(), []
    model = base_model(chosen.model)
    for instruction_set, shape in cases:
        for precision in chosen.precisions:
            with cpu.use_instruction_set(instruction_set):
                case = profile_case(model, shape, precision, chosen.repeats)
            shown.print(table_of(case))
            rows += case
            write_json(chosen.out / "profile.json", {**where, "rows": rows})
    shown.print(f"wrote {chosen.out / 'profile.json'}")


if __name__ == "__main__":
    exit_with(main)
