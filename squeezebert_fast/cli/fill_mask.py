"""`squeezebert-fast fill-mask`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from squeezebert_fast.answering.options import EngineOptions
from squeezebert_fast.cli import options


def fill_mask(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A text with one [MASK] or several (<mask> of a RoBERTa).")
    ],
    model: options.Model,
    top_k: Annotated[int, typer.Option(min=1, help="Tokens to give for each mask, the best first.")] = 5,
    as_json: options.AsJson = False,
    precision: options.Precision = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
) -> None:
    """Fill in the masked words of a text: the likeliest tokens for each mask, with their probabilities.

    Example:

        MODEL=distilbert/distilbert-base-uncased
        squeezebert-fast fill-mask -m $MODEL "Paris is the [MASK] of France."
    """
    from squeezebert_fast.answering.masks import MaskFiller

    filler = MaskFiller(model, EngineOptions(backend=backend, threads=threads, precision=precision))
    tokens = filler.encode(text)
    filler.check_top_k(top_k)
    (fills,) = filler.fills([tokens], [top_k])
    if as_json:
        typer.echo(json.dumps(fills, ensure_ascii=False))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("mask", "token", "score", box=None, pad_edge=False)
    for number, candidates in enumerate(fills, 1):
        for place, fill in enumerate(candidates):
            table.add_row("" if place else str(number), str(fill["token"]), f"{fill['score']:.4f}")
    Console(markup=False, emoji=False, highlight=False).print(table)
