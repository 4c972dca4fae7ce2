"""`squeezebert-fast quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from squeezebert_fast.cli.group import InputError, held_warnings


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
    if target.is_dir() and not force and any(target.iterdir()):
        raise InputError(f"the target {target} holds files already; --force writes into it all the same")

    from squeezebert_fast import modeling
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.loading.checkpoint import CONFIG_NAME, WEIGHTS_NAME
    from squeezebert_fast.loading.hub import ModelFiles
    from squeezebert_fast.loading.quantized import INT8_NAME, save_quantized
    from squeezebert_fast.tokenization import SqueezeBertTokenizerFast

    if (target / WEIGHTS_NAME).exists():  # it would be read in place of the int8 file
        raise InputError(f"the target {target} holds a float model, {WEIGHTS_NAME}; give another folder")
    config = SqueezeBertConfig.from_json_file(ModelFiles(source).required(CONFIG_NAME))
    name = (config.architectures or ["SqueezeBertModel"])[0]
    if name not in modeling.__all__ or not issubclass(
        getattr(modeling, name), modeling.SqueezeBertPreTrainedModel
    ):
        raise InputError(f"{source} is a {name}, which is no model of this package")
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(source)
    with held_warnings():
        model = getattr(modeling, name).from_pretrained(source)
    save_quantized(model, target)
    tokenizer.save_pretrained(target)
    megabytes = (target / INT8_NAME).stat().st_size / 1e6
    typer.echo(f"{target}: {name}, {model.num_parameters() / 1e6:.1f} M parameters, {megabytes:.1f} MB")
