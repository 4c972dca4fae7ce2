"""`squeezebert-fast quantize`."""

from __future__ import annotations

from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.writing import target_directory, tell_model
from squeezebert_fast.errors import InputError


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A model's directory, or its id on the hub.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The directory to write.")],
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that holds files already.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Save a model in int8, with its tokenizer: a quarter of the size, ready to run.

    Example:

        MODEL=sentence-transformers/all-MiniLM-L6-v2
        squeezebert-fast quantize $MODEL minilm-int8
    """
    with target_directory(target, force) as directory:
        from squeezebert_fast.loading.int8_file import INT8_NAME
        from squeezebert_fast.loading.sentence_folder import copy_around
        from squeezebert_fast.patching.int8_checkpoint import save_quantized
        from squeezebert_fast.pretrained import find, find_sentence_folder, of_files, save_tokenizer

        folder = find_sentence_folder(source)
        stored = find(source) if folder is None else of_files(folder.transformer)
        if stored.is_int8():
            raise InputError(f"{source} is an int8 checkpoint already; give the float one it was made from")
        tokenizer = stored.tokenizer()
        model = stored.load_as_saved()
        inside = directory / (stored.files.subfolder or "")
        save_quantized(model, inside)
        save_tokenizer(tokenizer, inside)
        if folder is not None:
            copy_around(folder, directory)
    size = (inside / INT8_NAME).stat().st_size
    tell_model(directory, model, as_json, f"{size / 1e6:.1f} MB", bytes=size)
