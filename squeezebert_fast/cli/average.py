"""`squeezebert-fast average`."""

from __future__ import annotations

from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.writing import target_directory, tell_model
from squeezebert_fast.errors import InputError


def average(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Two models or more: directories, or ids on the hub."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="The directory to write.")],
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that holds files already.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Average the parameters of several fine-tunings of one model into one that is often better than each.

    Source: model soups, arXiv 2203.05482. It takes runs from the same checkpoint on the same data, with different
    seeds, rates or teachers; models from different checkpoints have an average too, but that is noise.

    Example:

        MODEL=sentence-transformers/all-MiniLM-L6-v2
        echo 'text,label' > train.csv
        echo 'A lovely film.,positive' >> train.csv
        echo 'A waste of time.,negative' >> train.csv
        for SEED in 1 2; do
          squeezebert-fast finetune train.csv -m $MODEL --seed $SEED -o run-$SEED
        done
        squeezebert-fast average run-1 run-2 -o averaged
    """
    if len(sources) < 2:
        raise InputError(f"{len(sources)} model is given, expected two or more")

    with target_directory(output, force) as directory:
        from squeezebert_fast.pretrained import find, save, save_tokenizer
        from squeezebert_fast.training.averaging import average_parameters

        stored = [find(source) for source in sources]
        tokenizers = [each.tokenizer() for each in stored]
        models = [each.load_as_saved() for each in stored]
        classes = [type(model) for model in models]
        for source, cls, tokenizer in zip(sources, classes, tokenizers, strict=True):
            if cls is not classes[0]:
                raise InputError(f"{source} is a {cls.__name__}, but {sources[0]} is a {classes[0].__name__}")
            if tokenizer.get_vocab() != tokenizers[0].get_vocab():
                raise InputError(f"{source} and {sources[0]} have different vocabularies")
        model = average_parameters(models, sources)
        save(model, directory)
        save_tokenizer(tokenizers[0], directory)
    tell_model(directory, model, as_json, f"the average of {len(models)}", sources=sources)
