"""`squeezebert-fast bench`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.group import INTERRUPTED
from squeezebert_fast.cli.writing import checked_output
from squeezebert_fast.errors import InputError, UnsupportedError
from squeezebert_fast.streams import PROGRAM, held_warnings, progress_console

if TYPE_CHECKING:
    from squeezebert_fast.benchmark import Report, Turns
    from squeezebert_fast.benchmark.forwards import ForwardRunner
    from squeezebert_fast.pretrained import Config

REMEDY = "end what else runs on this machine, or raise --repeats, and measure again"


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
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each at each shape.")] = 20,
    threads: options.Threads = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every timing to this file.")] = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Draw the speed-ups to this .png or .svg file.")
    ] = None,
) -> None:
    """Time a model's forward across shapes and backends. Each has a process of its own, and all but one are stopped.

    They take turns, so that noise falls on all alike. Speed-up is the ratio of medians to the first backend. The peak
    is that of this machine's multiply-adds, of the candidate's own precision. A backend that can't serve is left out.

    Example: squeezebert-fast bench --shapes 1x128,8x128 --precision float32,int8 --plot speed.png
    """
    wanted = [_shape(shape) for shape in shapes.split(",")]
    names = [name.strip() for name in backends.split(",")]
    precisions = [name.strip() for name in precision.split(",")]
    for path in (json_path, plot_path):
        if path is not None:
            checked_output(path)

    from squeezebert_fast.answering.running import use_threads
    from squeezebert_fast.benchmark import check_plot, forwards
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.modeling import SqueezeBertModel
    from squeezebert_fast.pretrained import find

    if plot_path is not None:
        check_plot(plot_path)
    use_threads(threads)
    candidates = forwards.candidate_names(names, precisions)
    if model is None:
        config, build = SqueezeBertConfig(), forwards.base_model
    else:
        stored = find(model)
        config, build = stored.config(), partial(stored.load, SqueezeBertModel, dequantize=True)
    for batch, tokens in wanted:
        forwards.check_shape(config, batch, tokens)
    recipes = {
        name: partial(forwards.ForwardRunner, build, *candidate) for name, candidate in candidates.items()
    }
    title = model or "SqueezeBERT base, random weights"
    try:
        report = _measured(title, config, recipes, wanted, repeats)
    except KeyboardInterrupt:
        typer.echo(f"{PROGRAM}: stopped before all was measured; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None

    from rich.console import Console

    Console(markup=False, emoji=False, highlight=False).print(report.table())
    if json_path is not None:
        report.write_json(json_path)
    if plot_path is not None:
        report.plot(plot_path)
    doubt = report.doubt()
    if doubt is not None:
        typer.echo(f"{PROGRAM}: warning: {doubt}: don't rely on these times; {REMEDY}", err=True)


def _measured(
    title: str,
    config: Config,
    recipes: Mapping[str, Callable[[], ForwardRunner]],
    shapes: Sequence[tuple[int, int]],
    repeats: int,
) -> Report:
    """The candidates, shape by shape. Raises UnsupportedError if none of them can be measured."""
    import torch

    from squeezebert_fast.benchmark import Case, Load, Peaks, Report, Turns, encoder_flops, precision_of
    from squeezebert_fast.benchmark.load import load_average, others_share
    from squeezebert_fast.benchmark.turns import turns_of

    tell = logging.getLogger("squeezebert_fast.benchmark").warning
    average_before = load_average()
    with Turns(torch.get_num_threads(), progress_console(), tell=tell) as turns:
        at_first = turns.usage()
        with held_warnings():
            for name in turns.starting(list(recipes), "candidates"):
                turns.start(name, recipes[name])
            _refuse_nothing(turns, recipes)
        peaks = Peaks(turns, ["float32", *map(precision_of, recipes)])
        started = turns.usage()
        with held_warnings():
            measured = {
                (batch, tokens): turns.measure(
                    list(recipes),
                    turns_of(repeats, batch, tokens),
                    between=peaks.sample,
                    title=f"{batch}x{tokens}",
                )
                for batch, tokens in shapes
            }
            _refuse_nothing(turns, recipes)
        load = Load(
            average_before,
            load_average(),
            others_share(at_first, started),
            others_share(started, turns.usage()),
        )
        peak_of = peaks.flops_per_second()
    cases = [
        Case(
            f"{batch}x{tokens}",
            tuple(timings),
            encoder_flops(config, batch, tokens),
            peak_of["float32"],
            {name: peak_of[precision_of(name)] for name in recipes},
        )
        for (batch, tokens), timings in measured.items()
        if timings
    ]
    left_out = {name: reason for name, reason in turns.failed.items() if name in recipes}
    return Report(title, tuple(cases), load=load, left_out=left_out)


def _refuse_nothing(turns: Turns, names: Iterable[str]) -> None:
    """Raise UnsupportedError if no candidate is left."""
    if any(name in turns for name in names):
        return
    reasons = dict.fromkeys(turns.failed[name] for name in names)  # one that all share is told once
    raise UnsupportedError(f"there is nothing left to measure: {'; '.join(reasons)}")


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*([1-9]\d{0,5})x([1-9]\d{0,5})\s*", text)
    if match is None:
        raise InputError(f"the shape is {text.strip()!r}, expected batch x tokens such as 8x128")
    return int(match.group(1)), int(match.group(2))
