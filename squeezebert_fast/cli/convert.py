"""`squeezebert-fast convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.writing import target_directory, tell_model


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A BERT model's directory, or its id on the hub.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The directory to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32 (the default), float16, bfloat16, or auto as stored.",
            autocompletion=options.completing(("float32", "float16", "bfloat16", "auto")),
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that holds files already.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Convert a BERT checkpoint to SqueezeBERT form, with groups=1: it computes the same.

    Example:

        MODEL=sentence-transformers/all-MiniLM-L6-v2
        squeezebert-fast convert $MODEL minilm
    """
    with target_directory(target, force) as directory:
        from squeezebert_fast.modeling.bert_conversion import convert_directory

        model = convert_directory(source, directory, dtype=dtype)
    tell_model(directory, model, as_json, str(model.dtype), dtype=str(model.dtype).removeprefix("torch."))
