"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="A model's directory, or its id on the hub.")]
Backend = Annotated[
    str,
    typer.Option(help="auto, reference, cpu or triton; one that is named and can't serve is an error."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads to compute with; by default as many as torch takes.")
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N, or auto, which is cuda where torch finds a GPU, else cpu.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts that run through the model at once.")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens at which a text is cut; by default as many as the model takes."),
]
InputFile = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="Text (a line each), .csv, .tsv, .jsonl or .parquet; - is stdin."),
]
InputFormat = Annotated[
    str | None,
    typer.Option(help="text, csv, tsv, jsonl or parquet, where the file's suffix doesn't say it."),
]
Column = Annotated[
    str | None, typer.Option(help="The column of a table that holds the text; by default 'text'.")
]
PairColumn = Annotated[str | None, typer.Option(help="The column that holds the second text of a pair.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write, by default stdout.")]
