"""`squeezebert-fast bench`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.writing import checked_output
from squeezebert_fast.errors import InputError
from squeezebert_fast.streams import held_warnings


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=f"{options.MODEL_HELP} By default a SqueezeBERT of the base size with random weights.",
        ),
    ] = None,
    shapes: Annotated[str, typer.Option(help="Batch x tokens, separated by commas.")] = "1x32,1x128,8x128",
    backends: Annotated[
        str, typer.Option(help="Separated by commas; transformers is its own model with the same weights.")
    ] = "reference,cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16, int8, separated by commas: each is timed on every backend that has it."
        ),
    ] = "float32",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 20,
    threads: options.Threads = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every timing to this file.")] = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Draw the speed-ups to this .png or .svg file.")
    ] = None,
) -> None:
    """Time a model's forward across shapes and backends, which take turns, so that noise falls on all alike.

    Speed-up is the ratio of medians to the first backend. The peak is that of this machine's multiply-adds, of the
    candidate's own precision.

    Example: squeezebert-fast bench --shapes 1x128,8x128 --precision float32,int8 --plot speed.png
    """
    wanted = [_shape(shape) for shape in shapes.split(",")]
    names = [name.strip() for name in backends.split(",")]
    precisions = [name.strip() for name in precision.split(",")]
    for path in (json_path, plot_path):
        if path is not None:
            checked_output(path)

    import torch

    from squeezebert_fast import benchmark
    from squeezebert_fast.cli.running import use_threads
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.modeling import SqueezeBertModel
    from squeezebert_fast.pretrained import find

    if plot_path is not None:
        benchmark.check_plot(plot_path)
    use_threads(threads)
    torch.manual_seed(0)
    if model is None:
        encoder = SqueezeBertModel(SqueezeBertConfig()).eval()
    else:
        with held_warnings():
            encoder = find(model).load(SqueezeBertModel, dequantize=True)
    candidates = [
        benchmark.forward_candidates(encoder, names, batch, tokens, precisions=precisions)
        for batch, tokens in wanted
    ]
    cases = []
    for (batch, tokens), runs in zip(wanted, candidates, strict=True):
        measured = {name: benchmark.precision_of(name) for name in runs}
        peaks = benchmark.MultiplyAddPeaks(dict.fromkeys(["float32", *measured.values()]))
        timings = tuple(benchmark.measure(runs, repeats, between=peaks.sample))
        flops = benchmark.encoder_flops(encoder.config, batch, tokens)
        own = {name: peaks[precision] for name, precision in measured.items()}
        cases.append(benchmark.Case(f"{batch}x{tokens}", timings, flops, peaks["float32"], own))
    report = benchmark.Report(model or "SqueezeBERT base, random weights", tuple(cases))

    from rich.console import Console

    Console(markup=False, emoji=False, highlight=False).print(report.table())
    if json_path is not None:
        report.write_json(json_path)
    if plot_path is not None:
        report.plot(plot_path)


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*([1-9]\d{0,5})x([1-9]\d{0,5})\s*", text)
    if match is None:
        raise InputError(f"the shape is {text.strip()!r}, expected batch x tokens such as 8x128")
    return int(match.group(1)), int(match.group(2))
