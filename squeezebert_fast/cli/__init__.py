"""The command line `squeezebert-fast`.

Each command is a module of this package. Nothing here imports torch before a command runs that needs it, so
that `--help` answers at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from squeezebert_fast.cli import (
    average,
    bench,
    convert,
    distill,
    doctor,
    embed,
    evaluate,
    fill_mask,
    finetune,
    predict,
    pretrain,
    quantize,
    serve,
    similar,
)
from squeezebert_fast.cli.group import Group
from squeezebert_fast.cli.ray_options import Command
from squeezebert_fast.streams import PROGRAM
from squeezebert_fast.version import __version__

FIRST_STEPS = """\
squeezebert-fast makes BERT-shaped models fast. The first three things to do.

What this machine can do, and why not more:

    squeezebert-fast doctor

An answer, by the model that ships:

    echo "What a lovely film." | squeezebert-fast predict -

Which precision is best for your model here:

    squeezebert-fast bench -m MODEL

MODEL is a model's directory or its id on the hub. All commands: squeezebert-fast --help
"""
EXIT_CODES = (
    "Exit codes: 0 when all is done, 1 for output that can't be written (a full disk, a closed pipe), 2 for bad "
    "input, 130 when stopped by Ctrl-C, 143 by SIGTERM. An error is one line on stderr."
)


def _help(command: Callable[..., None]) -> str:
    """A command's docstring: a paragraph is one line, which the terminal's width wraps, and what is indented stays."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(f"\b{each}" if each.startswith(" ") else " ".join(each.split()) for each in paragraphs)


app = typer.Typer(cls=Group, pretty_exceptions_enable=False)
for command in (
    doctor.doctor,
    predict.predict,
    fill_mask.fill_mask,
    embed.embed,
    similar.similar,
    serve.serve,
    finetune.finetune,
    distill.distill,
    pretrain.pretrain,
    evaluate.evaluate,
    average.average,
    quantize.quantize,
    bench.bench,
    convert.convert,
):
    app.command(cls=Command, help=_help(command))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """SqueezeBERT with custom kernels: classify, fill in, embed, serve, train, measure and convert."""
    if context.invoked_subcommand is None:
        typer.echo(FIRST_STEPS, nl=False)


def main() -> None:
    """The program `squeezebert-fast`: run the command in sys.argv and leave by SystemExit with its code."""
    typer.main.get_command(app)(prog_name=PROGRAM)
