"""A few tokens, where reading the weights is the limit: the encoder against what the memory could deliver.

    python -m benchmarks.small_work --out benchmarks/results

prints the table and writes small_work.json. README.md says what it means.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from rich.table import Table

from benchmarks.command import about, add_precisions, add_shapes, console, exit_with, parser_for, prepare
from benchmarks.passes import base_model, native_encoder
from benchmarks.report import shape_name, write_json
from squeezebert_fast.benchmark import measure, milliseconds

SHAPES = ((1, 1), (1, 4), (1, 16))
COPY_BYTES = 256 << 20  # several times the last-level cache


class CopyBandwidth:
    """Bytes a second that a large copy moves, those it reads and those it writes together, sampled between rounds.

    What a store reads before it writes isn't counted, so memory that only reads may deliver more.
    """

    def __init__(self) -> None:
        self._source = torch.ones(COPY_BYTES, dtype=torch.uint8)
        self._target = torch.zeros_like(self._source)  # written once: its pages are there
        self.samples: list[float] = []

    def sample(self) -> None:
        start = time.perf_counter()
        self._target.copy_(self._source)
        self.samples.append(2 * COPY_BYTES / (time.perf_counter() - start))

    @property
    def bytes_per_second(self) -> float:
        """The upper quartile: a limit is what is reached when nobody else is in the way."""
        return torch.tensor(self.samples).quantile(0.75).item()


def main() -> None:
    parser = parser_for("small_work", __doc__, repeats=30)
    add_shapes(parser, SHAPES)
    add_precisions(parser)
    chosen = parser.parse_args()
    prepare(chosen)
    where = about("small_work", chosen.repeats)
    model = base_model()
    encoders = {precision: native_encoder(model, precision) for precision in chosen.precisions}
    shown, rows = console(), []
    for shape in chosen.shapes:
        x = torch.randn(*shape, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        bandwidth = CopyBandwidth()
        candidates = {name: partial(encoder.run, x, None) for name, encoder in encoders.items()}
        with torch.inference_mode():
            timings = measure(candidates, chosen.repeats, between=bandwidth.sample)
        table = Table("precision", title=shape_name(shape), title_justify="left")
        for column in ("packed MB", "copy GB/s", "bound", "median", "p20 .. p80", "over the bound"):
            table.add_column(column, justify="right")
        for timing in timings:
            size = encoders[timing.name].bytes
            bound = size / bandwidth.bytes_per_second
            table.add_row(
                timing.name,
                f"{size / 1e6:.1f}",
                f"{bandwidth.bytes_per_second / 1e9:.1f}",
                milliseconds(bound),
                milliseconds(timing.median),
                milliseconds(timing.percentile(20), timing.percentile(80)),
                f"{timing.median / bound:.2f}",
            )
            rows.append(
                {
                    "case": shape_name(shape),
                    "precision": timing.name,
                    "packed_bytes": size,
                    "copy_bytes_per_second_read_and_written": bandwidth.bytes_per_second,
                    "bound_ms": 1e3 * bound,
                    "median_ms": 1e3 * timing.median,
                    "p20_ms": 1e3 * timing.percentile(20),
                    "p80_ms": 1e3 * timing.percentile(80),
                    "over_bound": timing.median / bound,
                    "ms": [1e3 * seconds for seconds in timing.seconds],
                }
            )
        shown.print(table)
    write_json(chosen.out / "small_work.json", {**where, "rows": rows})
    shown.print(f"wrote {chosen.out / 'small_work.json'}")


if __name__ == "__main__":
    exit_with(main)
