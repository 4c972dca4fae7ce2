"""Models as stages of a user's own pipeline of Ray Data: answers as columns beside those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from squeezebert_fast.answering.options import AS_STORED, POOLINGS, USUAL, AnswerOptions, EngineOptions
from squeezebert_fast.answering.rows import beside
from squeezebert_fast.errors import InputError, check_among
from squeezebert_fast.ray.cluster import library
from squeezebert_fast.ray.work import Embedding, Loaded, Prediction, Work, place_of
from squeezebert_fast.tables.columns import check
from squeezebert_fast.tables.rows import Record
from squeezebert_fast.tables.unreadable import STOP

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from ray.data import Dataset

ROWS_AT_ONCE = 2048
"""Rows of a batch of Ray Data, which are sorted by length and run through the model in batches of their own."""


class _Stage:
    """A class for `map_batches`: one model an actor, loaded as the actor starts."""

    def __init__(self, work: Work, column: str | None, pair_column: str | None) -> None:
        self.loaded: Loaded = work.load()
        usual, usual_pair = self.loaded.columns
        self.column = usual if column is None else column
        self.pair = usual_pair if pair_column is None else pair_column or None

    def __call__(self, batch: Any) -> Any:
        """The batch, of whichever form (a dict of arrays, a table of Arrow or of pandas), with the answers' columns.

        A column of the same name as one of them becomes `input_...`. Raises ColumnError for a column that isn't there,
        and InputError for values that aren't text; None and NaN are texts without characters.
        """
        from squeezebert_fast.ray.parquet_rows import schema_of, table_of

        answers = [answer for _, answer in self.loaded.run(self._records(batch))]
        return _joined(batch, table_of(answers, schema_of({}, self.loaded.types, STOP)))

    def _records(self, batch: Any) -> list[Record]:
        names = [self.column, *([] if self.pair is None else [self.pair]), *self.loaded.choice_columns]
        columns = [_texts(batch, name) for name in names]
        if self.pair is not None:
            return [Record(text, pair) for text, pair in zip(*columns, strict=True)]
        return [Record(text, choices=tuple(choices)) for text, *choices in zip(*columns, strict=True)]


class Predict(_Stage):
    """What a model was trained for, as `squeezebert-fast predict` has it.

    model: a folder, or a name on the hub, that every node finds. column, pair_column: by default those that the model
    was trained with, or else "text" and none ("" for none all the same). batch_size: texts that run through the model
    at once, of a batch of Ray Data that had better be larger, since its rows are sorted by length.
    Raises what `load_engine` raises.

    >>> dataset.map_batches(Predict, fn_constructor_args=("./model",), compute=ActorPoolStrategy(size=2), num_cpus=1,
    ...                     batch_size=2048)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        *,
        column: str | None = None,
        pair_column: str | None = None,
        options: AnswerOptions = USUAL,
        engine: EngineOptions = AS_STORED,
        batch_size: int = 32,
    ) -> None:
        work = Prediction(model=model, chosen=options, engine=engine, batch_size=batch_size)
        super().__init__(work, column, pair_column)


class Embed(_Stage):
    """Vectors of texts, as `squeezebert-fast embed` has them, in the column `vector`. The rest as for `Predict`.

    prompt_name, pooling, normalize: the options of `embed`.
    """

    def __init__(
        self,
        model: str,
        *,
        column: str | None = None,
        pair_column: str | None = None,
        prompt_name: str | None = None,
        pooling: str | None = None,
        normalize: bool = False,
        engine: EngineOptions = AS_STORED,
        batch_size: int = 32,
    ) -> None:
        if pooling is not None:
            check_among("pooling", pooling, POOLINGS, InputError)
        work = Embedding(
            model=model,
            prompt_name=prompt_name,
            pooling=pooling,
            engine=engine,
            normalize=normalize,
            pairs=bool(pair_column),
            batch_size=batch_size,
        )
        super().__init__(work, column, pair_column)


def predict(
    dataset: Dataset,
    model: str,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    options: AnswerOptions = USUAL,
    engine: EngineOptions = AS_STORED,
    batch_size: int = 32,
    workers: int | None = None,
    threads: int = 1,
) -> Dataset:
    """The dataset with the model's answers beside its columns; what they are says `Predict`.

    workers: actors with a model each, by default as many as there is room for, but at least one. threads: of each,
    and the CPUs that it takes.
    Raises what is wrong with the model's name or the options at once, what is wrong with a row as Ray Data does.

    >>> predict(ray.data.read_csv("reviews.csv"), "./sentiment", column="review").write_parquet("out")  # doctest: +SKIP
    """
    from squeezebert_fast.answering.predictor import Predictor

    model = place_of(model)
    Predictor(model, options)
    given = {"column": column, "pair_column": pair_column, "options": options, "batch_size": batch_size}
    return _mapped(dataset, Predict, model, given, engine, workers, threads)


def embed(
    dataset: Dataset,
    model: str,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    prompt_name: str | None = None,
    pooling: str | None = None,
    normalize: bool = False,
    engine: EngineOptions = AS_STORED,
    batch_size: int = 32,
    workers: int | None = None,
    threads: int = 1,
) -> Dataset:
    """The dataset with each text's vector in the column `vector`; the rest as for `predict` and `Embed`.

    >>> embed(ray.data.read_text("sentences.txt"), "./all-MiniLM-L6-v2").write_parquet("vectors")  # doctest: +SKIP
    """
    from squeezebert_fast.pretrained import find, find_sentence_folder

    model = place_of(model)
    if find_sentence_folder(model) is None:
        find(model)
    given = {
        "column": column,
        "pair_column": pair_column,
        "prompt_name": prompt_name,
        "pooling": pooling,
        "normalize": normalize,
        "batch_size": batch_size,
    }
    return _mapped(dataset, Embed, model, given, engine, workers, threads)


def _mapped(
    dataset: Dataset,
    stage: type[_Stage],
    model: str,
    given: Mapping[str, Any],
    engine: EngineOptions,
    workers: int | None,
    threads: int,
) -> Dataset:
    ray = library()
    pool = ray.data.ActorPoolStrategy
    if workers is None:  # not all CPUs at once: what reads the dataset needs some
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        compute = pool(min_size=1, max_size=room)
    else:
        compute = pool(size=workers)
    return dataset.map_batches(
        stage,
        fn_constructor_args=(model,),
        fn_constructor_kwargs={**given, "engine": replace(engine, threads=threads)},
        batch_size=ROWS_AT_ONCE,
        batch_format="pyarrow",
        num_cpus=threads,
        compute=compute,
    )


def _texts(batch: Any, name: str) -> list[str]:
    """A column's values. Raises ColumnError, InputError."""
    is_table = hasattr(batch, "column_names")
    check(name, batch.column_names if is_table else list(batch), "the dataset")
    values = batch.column(name).to_pylist() if is_table else list(batch[name])
    for value in values:
        if not (value is None or isinstance(value, str) or value != value):
            kind = type(value).__name__
            raise InputError(
                f"the dataset's column {name!r} holds a value of the type {kind}, expected strings"
            )
    return [str(value) if isinstance(value, str) else "" for value in values]


def _joined(batch: Any, answers: pyarrow.Table) -> Any:
    """The batch, in its own form, with the columns of `answers`."""
    import pyarrow

    if isinstance(batch, pyarrow.Table):
        names = zip(batch.column_names, batch.columns, strict=True)
        return pyarrow.table(
            beside(dict(names), dict(zip(answers.column_names, answers.columns, strict=True)))
        )
    if isinstance(batch, Mapping):
        return beside(batch, {name: _array(answers.column(name)) for name in answers.column_names})
    frame = answers.to_pandas().set_index(batch.index)
    return type(batch)(beside(dict(batch.items()), dict(frame.items())))


def _array(column: pyarrow.ChunkedArray) -> np.ndarray:
    import pyarrow

    if not pyarrow.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)
