"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from squeezebert_fast.errors import InputError

MODEL_HELP = (
    "A model's directory, or its id on the hub: a SqueezeBERT, or as transformers has it a BERT, RoBERTa, XLM-RoBERTa, "
    "CamemBERT, DistilBERT or ELECTRA."
)
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
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
    typer.Option(
        min=1,
        help="Tokens at which a text is cut; by default as in the model's training, or else as many as it takes.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or int8, on a CPU; by default the checkpoint's own."),
]
InputFile = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="Text (a line each), .csv, .tsv, .jsonl, .json or .parquet; .gz and .zst of them; a directory, or a "
        "quoted 'parts/*.csv'; - is stdin.",
    ),
]
InputFormat = Annotated[
    str | None,
    typer.Option(help="text, csv, tsv, jsonl, json or parquet, where the file's suffix doesn't say it."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="What parts a CSV's fields, such as ';' or tab; by default as its header looks."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Columns that stand beside the answers in place of the text, separated by commas; or all.",
        show_default=False,
    ),
]
Id = Annotated[
    str | None, typer.Option("--id", help="The column that names a row: it stands first, before those kept.")
]
Column = Annotated[
    str | None,
    typer.Option(
        help="The column of a table that holds the text; by default as in the model's training, or 'text'."
    ),
]
PairColumn = Annotated[
    str | None, typer.Option(help="The column that holds the second text of a pair; '' for none.")
]
RowFormat = Annotated[
    str | None, typer.Option(help="jsonl or csv; by default as the output's suffix says, or else jsonl.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write, by default stdout.")]


def kept_columns(id_column: str | None, keep: list[str] | None) -> list[str]:
    """What --id and --keep say, as `tables.columns.Wanted` takes it. Raises InputError where they name no column."""
    if id_column is not None and not id_column.strip():
        raise InputError(f"--id is {id_column!r}, expected the name of a column")
    for said in keep or ():
        if not all(part.strip() for part in said.split(",")):
            raise InputError(f"--keep is {said!r}, expected names of columns with commas between, or all")
    return [*([] if id_column is None else [id_column]), *(keep or [])]
