"""`squeezebert-fast embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.embedding_options import EmbeddingOptions
from squeezebert_fast.cli.kept import kept_columns_named
from squeezebert_fast.cli.ray_options import RayOptions, run_on_ray
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.vector_files import NUMPY, vector_format, vector_writer
from squeezebert_fast.cli.writing import checked_output, tracked
from squeezebert_fast.errors import InputError
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.blanks import Blanks
from squeezebert_fast.tables.rows import DEFAULT_COLUMN, Input
from squeezebert_fast.tables.unreadable import RECORD
from squeezebert_fast.trained_with import TrainedWith

OF_NO_TEXT = "their vectors are of no text"
"""What becomes of an empty text."""


@spread
def embed(
    source: options.InputFile,
    model: options.Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, a row for each text: .npy (float32, the vectors alone), or .jsonl or .csv (with "
            "the text, or what --keep and --id say). With --ray a directory.",
        ),
    ],
    *,
    format: Annotated[
        str | None, typer.Option(help="With --ray: write parquet (the default) or jsonl.", show_default=False)
    ] = None,
    column: options.Column = None,
    pair_column: Annotated[
        str | None,
        typer.Option(
            help="The column that holds a second text, to make one vector of both; by default none."
        ),
    ] = None,
    input_format: options.InputFormat = None,
    delimiter: options.Delimiter = None,
    on_error: options.OnError = "stop",
    keep: options.Keep = None,
    id_column: options.Id = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale each vector to length 1.")] = False,
    prompt_name: Annotated[
        str | None,
        typer.Option(help="Of a sentence-transformers folder: which of its prompts each text begins with."),
    ] = None,
    embedding: EmbeddingOptions,
    on_ray: RayOptions,
) -> None:
    """Turn texts into vectors: a row of a NumPy file or table for each, in the order of the input.

    Of a sentence-transformers folder they are what its SentenceTransformer.encode gives, also of an empty text.

    Example:

        MODEL=sentence-transformers/all-MiniLM-L6-v2
        echo 'Where is my card?' > texts.txt
        echo 'I want a refund.' >> texts.txt
        squeezebert-fast embed texts.txt -m $MODEL -o vectors.npy
    """
    kept = options.kept_columns(id_column, keep)
    if on_ray.ray is not None:
        parts_format = on_ray.format(output, format, "parquet")
    else:
        _check_file(output, format, bool(kept), on_error)
        output = checked_output(output)
    trained_with = TrainedWith.of_model(model)
    with kept_columns_named(model, trained_with, {"column": column}):
        reading: dict[str, Any] = {
            "format": input_format,
            "column": column,
            "pair_column": pair_column or None,
            "default_column": trained_with.column or DEFAULT_COLUMN,
            "keep": kept,
            "delimiter": delimiter,
            "on_error": on_error,
        }
        records = Input(source, **reading)
    if on_ray.ray is not None:
        from squeezebert_fast.ray.work import Embedding

        work = Embedding(
            model=model,
            prompt_name=prompt_name,
            pooling=embedding.pooling,
            engine=embedding.engine,
            normalize=normalize,
            pairs=bool(pair_column),
            batch_size=embedding.batch_size,
        )
        run_on_ray(on_ray, work, records, reading, output, parts_format, OF_NO_TEXT)
        return
    output = checked_output(output, records.files)

    import torch

    from squeezebert_fast.answering.embedding import load_embedder
    from squeezebert_fast.answering.failing import each_answered

    embedder = load_embedder(
        model,
        prompt_name,
        pooling=embedding.pooling,
        engine=embedding.engine,
        normalize=normalize,
        pairs=bool(pair_column),
    )
    blanks = Blanks()
    with vector_writer(output, embedder.channels, on_error) as append:
        results = each_answered(
            records,
            lambda some: embedder.run(some, embedding.batch_size),
            torch.zeros(embedder.channels),
            records.unreadable,
            embedding.batch_size,
        )
        for record, vector in tracked(results, records):
            if record.is_blank and not record.problem:
                blanks.note(record.place)
            append(record, record.kept if kept else record.asked, vector)
    with held_warnings():
        records.unreadable.warn()
        blanks.warn(OF_NO_TEXT)


def _check_file(output: Path, format: str | None, keeps: bool, on_error: str) -> None:
    """Raise InputError for what the one file that is written without --ray has no place for."""
    if format is not None:
        raise InputError("--format means nothing without --ray; the output's suffix says it")
    if vector_format(output) == NUMPY and keeps:
        raise InputError(f"the output {output} holds numbers alone; .jsonl and .csv have a place for columns")
    if vector_format(output) == NUMPY and on_error == RECORD:
        raise InputError(f"the output {output} holds numbers alone; .jsonl and .csv have a place for errors")
