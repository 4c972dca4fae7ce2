"""`squeezebert-fast convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from squeezebert_fast.cli.writing import target_directory


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A BERT model's directory, or its id on the hub.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The directory to write.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32 (the default), float16, bfloat16, or auto as stored.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that holds files already.")
    ] = False,
) -> None:
    """Convert a BERT checkpoint to SqueezeBERT form, with groups=1: it computes the same.

    Example: squeezebert-fast convert ./all-MiniLM-L6-v2 ./minilm
    """
    with target_directory(target, force):
        from squeezebert_fast.modeling.bert_conversion import convert_directory

        model = convert_directory(source, target, dtype=dtype)
    typer.echo(
        f"{target}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters, {model.dtype}"
    )
