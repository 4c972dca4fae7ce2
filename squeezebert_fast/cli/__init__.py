"""The command line `squeezebert-fast`.

Each command is a module of this package. Nothing here imports torch before a command runs that needs it, so
that `--help` answers at once.
"""

from __future__ import annotations

import inspect
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

app = typer.Typer(cls=Group, add_completion=False, pretty_exceptions_enable=False)
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
    # A paragraph's lines as one, which the terminal's width wraps: typer would end lines where the source does.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(cls=Command, help="\n\n".join(" ".join(each.split()) for each in paragraphs))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """SqueezeBERT with custom kernels: classify, fill in, embed, serve, train, measure and convert."""


def main() -> None:
    """The program `squeezebert-fast`: run the command in sys.argv and leave by SystemExit with its code."""
    typer.main.get_command(app)(prog_name=PROGRAM)
