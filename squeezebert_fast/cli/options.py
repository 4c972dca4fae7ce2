"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from squeezebert_fast.answering.options import BACKENDS, PRECISIONS
from squeezebert_fast.errors import InputError
from squeezebert_fast.shipped import SENTIMENT
from squeezebert_fast.tables.unreadable import ON_ERROR


def completing(values: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell offers for an option with these values, of those that begin as what is typed already."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def completing_list(values: Iterable[str]) -> Callable[[str], list[str]]:
    """The same for an option that takes several, separated by commas: those that aren't among them yet."""

    def offered(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{each}" for each in values if each.startswith(last) and each not in given]

    return offered


MODEL_HELP = (
    "A model's directory, or its id on the hub: a SqueezeBERT, or a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT "
    f"or ELECTRA of transformers or sentence-transformers; {SENTIMENT} is the one that comes with the package."
)
DELIMITER_HELP = (
    "The character between a CSV's fields, or its name: tab, comma, semicolon, space; by default found out from the "
    "file."
)
COLUMN_HELP = "The column that holds the text; by default the one the model was trained with, or else 'text'."
PAIR_COLUMN_HELP = (
    "The column that holds the second text of a pair, or '' for none; by default the one the model was trained with, "
    "if any."
)
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
Backend = Annotated[
    str,
    typer.Option(
        help="auto, reference, cpu or triton; one that is named and can't serve is an error.",
        autocompletion=completing(BACKENDS),
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads to compute with; by default as many as torch takes.")
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:N, or auto, which is cuda where torch finds a GPU, else cpu.",
        autocompletion=completing(("auto", "cpu", "cuda")),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
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
    typer.Option(
        help="Compute in float32, bfloat16 or, on a CPU, int8; by default as the model is stored.",
        autocompletion=completing(PRECISIONS),
    ),
]
InputFile = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A file: .txt (a text a line), .csv, .tsv, .jsonl, .json or .parquet, also compressed (.gz, .bz2, .xz, "
        ".zst); a directory of such files; a quoted pattern like 'parts/*.csv'; or - for standard input.",
    ),
]
InputFormat = Annotated[
    str | None,
    typer.Option(
        help="Read the input as text (a line each), csv, tsv, jsonl, json or parquet, whatever its suffix says; by "
        "default as that says, or else as the first line looks.",
        autocompletion=completing(("text", "csv", "tsv", "jsonl", "json", "parquet")),
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help=DELIMITER_HELP),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Columns of the input, separated by commas, or 'all', to write beside each result in place of its text. "
        "May be given several times.",
        show_default=False,
    ),
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        help="A column that tells rows apart, such as an order's number: written first, before those of --keep, in "
        "place of the text.",
    ),
]
OnError = Annotated[
    str,
    typer.Option(
        help="What becomes of a row that can't be read, or on which the model fails: stop (an error), skip (it is left "
        "out, and counted) or record (its row has null for an answer, and the reason with its place under 'error').",
        autocompletion=completing(ON_ERROR),
    ),
]
Column = Annotated[
    str | None,
    typer.Option(help=COLUMN_HELP),
]
PairColumn = Annotated[str | None, typer.Option(help=PAIR_COLUMN_HELP)]
RowFormat = Annotated[
    str | None,
    typer.Option(
        help="Write jsonl or csv, with --ray jsonl or parquet; by default as the output's suffix says, or else jsonl.",
        autocompletion=completing(("jsonl", "csv", "parquet")),
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The file to write; by default, or as -, standard output."),
]


def kept_columns(id_column: str | None, keep: list[str] | None) -> list[str]:
    """What --id and --keep say, as `tables.columns.Wanted` takes it. Raises InputError where they name no column."""
    if id_column is not None and not id_column.strip():
        raise InputError(f"--id is {id_column!r}, expected the name of a column")
    for said in keep or ():
        if not all(part.strip() for part in said.split(",")):
            raise InputError(f"--keep is {said!r}, expected names of columns with commas between, or all")
    return [*([] if id_column is None else [id_column]), *(keep or [])]
