"""`squeezebert-fast embed`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.writing import checked_output, replacing, tracked
from squeezebert_fast.errors import InputError, check_among
from squeezebert_fast.tables.rows import Input

if TYPE_CHECKING:
    from torch import Tensor

POOLINGS = ("mean", "cls")


def embed(
    source: options.InputFile,
    model: options.Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .npy file to write, float32, a row for each text.")
    ],
    column: options.Column = None,
    pair_column: options.PairColumn = None,
    input_format: options.InputFormat = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="mean of the token vectors, or cls for the first one's; by default what a sentence-transformers "
            "folder says, or else mean."
        ),
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale each vector to length 1.")] = False,
    prompt_name: Annotated[
        str | None,
        typer.Option(help="Of a sentence-transformers folder: which of its prompts each text begins with."),
    ] = None,
    batch_size: options.BatchSize = 32,
    max_length: options.MaxLength = None,
    precision: options.Precision = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
) -> None:
    """Turn texts into vectors: a row of a NumPy file for each, in the order of the input.

    Of a sentence-transformers folder they are what its SentenceTransformer.encode gives.

    Example: squeezebert-fast embed -m ./all-MiniLM-L6-v2 sentences.txt -o vectors.npy
    """
    if pooling is not None:
        check_among("--pooling", pooling, POOLINGS, InputError)
    output = checked_output(output, source)
    records = Input(source, input_format, column, pair_column)

    from squeezebert_fast.cli.embedding import load_embedder

    embedder = load_embedder(
        model,
        pooling=pooling,
        prompt_name=prompt_name,
        normalize=normalize,
        pairs=pair_column is not None,
        backend=backend,
        threads=threads,
        max_length=max_length,
        precision=precision,
    )
    results = embedder.run(records, batch_size)
    with replacing(output) as staged, _NpyRows.open(staged, embedder.channels) as rows:
        for _, vector in tracked(results, records):
            rows.append(vector)


class _NpyRows:
    """A .npy file that grows by rows, since how many there will be isn't known before the input ends.

    NumPy pads the header so that the number of rows can grow in place: it is written again at the end.
    """

    def __init__(self, stream: BinaryIO, channels: int) -> None:
        self.stream, self.channels, self.count = stream, channels, 0
        self._write_header()

    @classmethod
    @contextmanager
    def open(cls, path: Path, channels: int) -> Iterator[_NpyRows]:
        with path.open("wb") as stream:
            rows = cls(stream, channels)
            yield rows
            rows._write_header()

    def append(self, row: Tensor) -> None:
        self.stream.write(row.float().numpy().tobytes())
        self.count += 1

    def _write_header(self) -> None:
        from numpy.lib import format

        header: dict[str, Any] = {
            "descr": "<f4",
            "fortran_order": False,
            "shape": (self.count, self.channels),
        }
        self.stream.seek(0)
        format.write_array_header_1_0(self.stream, header)
