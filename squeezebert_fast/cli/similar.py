"""`squeezebert-fast similar`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezebert_fast.answering.rows import beside
from squeezebert_fast.cli import options
from squeezebert_fast.cli.embedding_options import EmbeddingOptions
from squeezebert_fast.cli.kept import kept_columns_named
from squeezebert_fast.cli.shelf import Shelf
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.vector_files import NpyRows, read_vectors
from squeezebert_fast.cli.writing import STDOUT, checked_output, row_format, row_writer, tracked
from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.blanks import Blanks
from squeezebert_fast.tables.rows import DEFAULT_COLUMN, Input, Record
from squeezebert_fast.trained_with import TrainedWith

if TYPE_CHECKING:
    from squeezebert_fast.answering.embedding import Embedder
    from squeezebert_fast.cli.nearest import Neighbour


@spread
def similar(
    source: options.InputFile,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"{options.MODEL_HELP} Not needed for --vectors alone."),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="What to look for; may be given several times.", show_default=False),
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="A file with a query in each row, of any kind that INPUT may be.")
    ] = None,
    query_column: Annotated[
        str | None, typer.Option(help="The queries' column; by default that of --column.")
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="The .npy file that embed wrote of INPUT, not to compute its vectors again."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Neighbours to give, the nearest first.")] = 5,
    min_score: Annotated[
        float,
        typer.Option(
            min=-1, max=1, help="The least cosine that a neighbour has, such as 0.9 to find near-duplicates."
        ),
    ] = -1.0,
    column: options.Column = None,
    input_format: options.InputFormat = None,
    delimiter: options.Delimiter = None,
    keep: options.Keep = None,
    id_column: options.Id = None,
    output: options.Output = None,
    format: options.RowFormat = None,
    prompt_name: Annotated[
        str | None,
        typer.Option(help="Of a sentence-transformers folder: which of its prompts each text begins with."),
    ] = None,
    query_prompt_name: Annotated[
        str | None, typer.Option(help="The same of each query, where a model tells them apart.")
    ] = None,
    embedding: EmbeddingOptions,
) -> None:
    """Find the texts of a file that are nearest to a query, to each query of a file, or to each other.

    Near is by the cosine of their vectors. A row for each neighbour: the query, the neighbour's rank, text, row (from
    0, as in the vectors' file) and score. Without --query and --queries each text is a query for all others.

    Example:

        MODEL=sentence-transformers/all-MiniLM-L6-v2
        echo 'Where is my card?' > texts.txt
        echo 'I want a refund.' >> texts.txt
        squeezebert-fast similar texts.txt -m $MODEL --query "My card is lost."
    """
    output = None if output == STDOUT else output
    written_format = row_format(output, format)
    if query and queries is not None:
        raise InputError("--query and --queries both say what to look for; give one of them")
    among_themselves = not query and queries is None
    if model is None and not (among_themselves and vectors is not None):
        raise InputError("--model is needed: what makes vectors of texts")
    kept = options.kept_columns(id_column, keep)
    trained_with = TrainedWith() if model is None else TrainedWith.of_model(model)
    usual = trained_with.column or DEFAULT_COLUMN
    with kept_columns_named(str(model), trained_with, {"column": column}):
        records = Input(source, input_format, column, default_column=usual, keep=kept, delimiter=delimiter)
    asked: Iterable[Record] = [Record(text, place="--query") for text in query or ()]
    read = [*records.files, *([] if vectors is None else [str(vectors)])]
    if queries is not None:
        asked = Input(queries, None, query_column or column, default_column=usual)
        read += asked.files
    output = None if output is None else checked_output(output, read)
    stored = None if vectors is None else read_vectors(vectors)

    with tempfile.TemporaryDirectory() as folder:
        shelves = _Shelves(Path(folder), embedding, model)
        texts = shelves.fill(records, prompt_name, stored)
        looked_for = texts if among_themselves else shelves.fill(asked, query_prompt_name, None)
        if looked_for.vectors.shape[1] != texts.vectors.shape[1]:
            raise InputError(
                f"{vectors} has vectors of {texts.vectors.shape[1]} numbers, {model} makes them of "
                f"{looked_for.vectors.shape[1]}"
            )
        as_pair = among_themselves and bool(kept)
        columns = _row(looked_for, 0, 1, texts, (0.0, 0), as_pair=as_pair)
        with row_writer(output, written_format, columns) as write:
            for row in _rows(looked_for, texts, top_k, min_score, as_pair=as_pair, to_stdout=output is None):
                write(row)
        with held_warnings():
            shelves.blanks.warn("what is empty is neither looked for nor found")


@dataclass(frozen=True)
class _Texts:
    """Texts, or what stands for them, with their vectors [texts, channels], and which of them have characters."""

    rows: Shelf
    vectors: Any
    usable: bytearray


class _Shelves:
    """Puts texts and their vectors away in a folder. Models are loaded when they are first needed."""

    def __init__(self, folder: Path, embedding: EmbeddingOptions, model: str | None) -> None:
        self.folder, self.embedding, self.model = folder, embedding, model
        self.blanks = Blanks()
        self.embedders: dict[str | None, Embedder] = {}

    def fill(self, records: Iterable[Record], prompt_name: str | None, vectors: Any) -> _Texts:
        """vectors: of the records, or None to make them."""
        rows, usable = Shelf(), bytearray()

        def put(record: Record) -> None:
            if record.is_blank:
                self.blanks.note(record.place)
            rows.append(record.kept or {"text": record.text})
            usable.append(not record.is_blank)

        if vectors is not None:
            for record in records:
                put(record)
            if len(rows) != len(vectors):
                raise InputError(
                    f"--vectors has {counted(len(vectors), 'row')} for {counted(len(rows), 'text')}"
                )
            return _Texts(rows, vectors, usable)
        embedder = self._embedder(prompt_name)
        path = self.folder / f"{len(list(self.folder.iterdir()))}.npy"
        results = embedder.run(records, self.embedding.batch_size)
        with NpyRows.open(path, embedder.channels) as written:
            for record, vector in tracked(results, records) if isinstance(records, Input) else results:
                put(record)
                written.append(vector)
        return _Texts(rows, read_vectors(path), usable)

    def _embedder(self, prompt_name: str | None) -> Embedder:
        from squeezebert_fast.answering.embedding import load_embedder

        assert self.model is not None  # as similar has checked
        if prompt_name not in self.embedders:
            self.embedders[prompt_name] = load_embedder(
                self.model, prompt_name, pooling=self.embedding.pooling, engine=self.embedding.engine
            )
        return self.embedders[prompt_name]


@dataclass
class _Counted:
    """Queries that are gone through."""

    size: int
    done: int = 0


def _rows(
    looked_for: _Texts, texts: _Texts, top_k: int, min_score: float, *, as_pair: bool, to_stdout: bool
) -> Iterator[dict[str, object]]:
    """A row for each neighbour of each query, as `_row` makes it."""
    import torch

    from squeezebert_fast.cli.nearest import nearest

    alike = looked_for is texts
    usable = torch.frombuffer(texts.usable, dtype=torch.bool)
    results = nearest(looked_for.vectors, texts.vectors, top_k, usable, among_themselves=alike)
    counted = _Counted(len(looked_for.vectors))
    for at, neighbours in enumerate(tracked(results, counted, to_stdout=to_stdout)):
        counted.done = at + 1
        if not looked_for.usable[at]:
            continue
        for rank, neighbour in enumerate(neighbours, 1):
            if neighbour[0] >= min_score:
                yield _row(looked_for, at, rank, texts, neighbour, as_pair=as_pair)


def _row(
    looked_for: _Texts, at: int, rank: int, texts: _Texts, neighbour: Neighbour, *, as_pair: bool
) -> dict[str, object]:
    """A neighbour of the query in row `at`. as_pair: whether the query has the kept columns of a text."""
    asked, (score, row) = looked_for.rows[at], neighbour
    query = {f"query_{name}": asked[name] for name in asked} if as_pair else {"query": asked["text"]}
    first = beside(query, {"query_row": at, "rank": rank})
    return first | beside(texts.rows[row], first | {"row": row, "score": score})
