"""`squeezebert-fast bench`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from squeezebert_fast.answering.options import BACKENDS, PRECISIONS
from squeezebert_fast.cli import options
from squeezebert_fast.cli.group import INTERRUPTED
from squeezebert_fast.cli.writing import checked_output, replacing
from squeezebert_fast.errors import InputError, UnsupportedError
from squeezebert_fast.streams import PROGRAM, held_warnings, progress_console

if TYPE_CHECKING:
    from squeezebert_fast.benchmark import Report, Turns
    from squeezebert_fast.benchmark.forwards import Candidate, Shape
    from squeezebert_fast.pretrained import Config, Model

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
    shapes: Annotated[
        str,
        typer.Option(
            help="Batch x tokens, separated by commas. Of 8x16-128 the texts have from 16 to 128 tokens and are "
            "padded to 128, which is timed with unpad=True too."
        ),
    ] = "1x32,1x128,8x16-128",
    backends: Annotated[
        str,
        typer.Option(
            help="Separated by commas; transformers is its own model with the same weights. The others are held "
            "against the first.",
            autocompletion=options.completing_list((*BACKENDS, "transformers")),
        ),
    ] = "reference,cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="Separated by commas: each is timed on every backend that has it.",
            autocompletion=options.completing_list(PRECISIONS),
        ),
    ] = ",".join(PRECISIONS),
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each at each shape.")] = 20,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write every timing to this .json file too.")
    ] = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Draw the speed-ups to this .png or .svg file.")
    ] = None,
) -> None:
    """Time a model's forward on this machine, in each precision, and say in one line which way is best.

    Candidates take turns, each in a process of its own, so that noise falls on all alike. Speed-up is the ratio of
    medians to the first backend. The peak is that of this machine's multiply-adds in the candidate's precision. What
    can't serve is left out, with the reason. Only evaluate, with your data, can say what a precision costs in accuracy.

    Example:

        squeezebert-fast bench -m shipped:sentiment --shapes 1x32
    """
    wanted = [_shape(shape) for shape in shapes.split(",")]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"the shapes {shapes} are not all different")
    names = [name.strip() for name in backends.split(",")]
    precisions = [name.strip() for name in precision.split(",")]
    for path in (output, plot_path):
        if path is not None:
            checked_output(path)

    from squeezebert_fast.answering.running import use_threads
    from squeezebert_fast.benchmark import advice, check_plot, forwards
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.modeling import SqueezeBertModel
    from squeezebert_fast.pretrained import find

    if plot_path is not None:
        check_plot(plot_path)
    use_threads(threads)
    batches = [forwards.Shape(*each) for each in wanted]
    candidates = forwards.candidates_of(names, precisions, unpad=any(each.is_padded for each in batches))
    if model is None:
        config, build = SqueezeBertConfig(), forwards.base_model
    else:
        stored = find(model)
        config, build = stored.config(), partial(stored.load, SqueezeBertModel, dequantize=True)
    for shape in batches:
        forwards.check_shape(config, shape.batch, shape.longest)
    title = model or "SqueezeBERT base, random weights"
    try:
        report = _measured(title, config, build, candidates, batches, repeats)
    except KeyboardInterrupt:
        typer.echo(f"{PROGRAM}: stopped before all was measured; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None

    found = advice.ways(report.cases, candidates)
    chosen = advice.best(found)
    values = report.to_dict() | {
        "ways": [each.as_json() for each in found],
        "best": None if chosen is None else chosen.as_json(),
    }
    if as_json:
        typer.echo(json.dumps(values))
    else:
        from rich.console import Console

        Console(markup=False, emoji=False, highlight=False).print(report.table())
        typer.echo(advice.advice(found, report.cases[0].timings[0].name))
    if output is not None:
        with replacing(output) as staged:
            staged.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if plot_path is not None:
        report.plot(plot_path)
    doubt = report.doubt()
    if doubt is not None:
        typer.echo(f"{PROGRAM}: warning: {doubt}: don't rely on these times; {REMEDY}", err=True)


def _measured(
    title: str,
    config: Config,
    build: Callable[[], Model],
    candidates: Mapping[str, Candidate],
    shapes: Sequence[Shape],
    repeats: int,
) -> Report:
    """The candidates, shape by shape. Raises UnsupportedError if none of them can be measured."""
    import torch

    from squeezebert_fast.benchmark import Case, Load, Peaks, Report, Turns
    from squeezebert_fast.benchmark.forwards import ForwardRunner
    from squeezebert_fast.benchmark.load import load_average, others_share
    from squeezebert_fast.benchmark.turns import turns_of

    tell = logging.getLogger("squeezebert_fast.benchmark").warning
    average_before = load_average()
    with Turns(torch.get_num_threads(), progress_console(), tell=tell) as turns:
        at_first = turns.usage()
        with held_warnings():
            for name in turns.starting(list(candidates), "candidates"):
                plain = candidates[name]._replace(unpad=False).label
                if plain in turns.failed:  # and so would this, for the same reason
                    continue
                turns.start(name, partial(ForwardRunner, build, candidates[name]))
            _refuse_nothing(turns, candidates)
        peaks = Peaks(turns, ["float32", *(each.precision for each in candidates.values())])
        started = turns.usage()
        with held_warnings():
            measured = {
                shape: turns.measure(
                    [name for name, each in candidates.items() if shape.is_padded or not each.unpad],
                    turns_of(repeats, shape),
                    between=peaks.sample,
                    title=str(shape),
                )
                for shape in shapes
            }
            _refuse_nothing(turns, candidates)
        load = Load(
            average_before,
            load_average(),
            others_share(at_first, started),
            others_share(started, turns.usage()),
        )
        peak_of = peaks.flops_per_second()
    cases = [
        Case(
            str(shape),
            tuple(timings),
            shape.flops(config),
            peak_of["float32"],
            {name: peak_of[each.precision] for name, each in candidates.items()},
        )
        for shape, timings in measured.items()
        if timings
    ]
    left_out = {name: reason for name, reason in turns.failed.items() if name in candidates}
    return Report(title, tuple(cases), load=load, left_out=left_out)


def _refuse_nothing(turns: Turns, names: Iterable[str]) -> None:
    """Raise UnsupportedError if no candidate is left."""
    if any(name in turns for name in names):
        return
    # one that all share is told once
    reasons = dict.fromkeys(turns.failed[name] for name in names if name in turns.failed)
    raise UnsupportedError(f"there is nothing left to measure: {'; '.join(reasons)}")


def _shape(text: str) -> tuple[int, int, int]:
    """Batch, and the least and most tokens. Raises InputError for anything else."""
    match = re.fullmatch(r"\s*([1-9]\d{0,5})x(?:([1-9]\d{0,5})-)?([1-9]\d{0,5})\s*", text)
    if match is None:
        raise InputError(
            f"the shape is {text.strip()!r}, expected batch x tokens such as 8x128, or 8x16-128 for texts of 16 to "
            "128 tokens"
        )
    batch, least, most = int(match[1]), int(match[2] or match[3]), int(match[3])
    if least > most:
        raise InputError(f"the shape is {text.strip()!r}, whose shortest text is longer than its longest")
    return batch, least, most
