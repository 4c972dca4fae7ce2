"""`squeezebert-fast quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from squeezebert_fast.streams import held_warnings


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A model's directory, or its id on the hub.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The directory to write.")],
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that holds files already.")
    ] = False,
) -> None:
    """Save a model in int8, with its tokenizer: a quarter of the size, ready to run.

    Example: squeezebert-fast quantize ./sentiment ./sentiment-int8
    """
    from squeezebert_fast.cli.stored import check_empty, model_class
    from squeezebert_fast.loading.int8_file import INT8_NAME
    from squeezebert_fast.patching.int8_checkpoint import save_quantized
    from squeezebert_fast.tokenization import SqueezeBertTokenizerFast

    check_empty(target, force)
    cls = model_class(source)
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(source)
    with held_warnings():
        model = cls.from_pretrained(source)
    save_quantized(model, target)
    tokenizer.save_pretrained(target)
    megabytes = (target / INT8_NAME).stat().st_size / 1e6
    typer.echo(
        f"{target}: {cls.__name__}, {model.num_parameters() / 1e6:.1f} M parameters, {megabytes:.1f} MB"
    )
