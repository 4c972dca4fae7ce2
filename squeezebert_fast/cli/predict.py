"""`squeezebert-fast predict`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from squeezebert_fast.answering.options import AnswerOptions, EngineOptions
from squeezebert_fast.cli import options
from squeezebert_fast.cli.ray_options import RayOptions, run_on_ray
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.writing import STDOUT, checked_output, row_format, row_writer, tracked
from squeezebert_fast.errors import InputError
from squeezebert_fast.shipped import SENTIMENT_MODEL
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.blanks import Blanks
from squeezebert_fast.tables.rows import Input
from squeezebert_fast.tables.sources import files_of

NO_ANSWER = "their answer is null"
"""What becomes of an empty text."""


@spread
def predict(
    source: options.InputFile,
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help=options.MODEL_HELP,
            show_default="the sentiment model that comes with the package",
        ),
    ] = str(SENTIMENT_MODEL),
    column: options.Column = None,
    pair_column: options.PairColumn = None,
    input_format: options.InputFormat = None,
    delimiter: options.Delimiter = None,
    on_error: options.OnError = "stop",
    keep: options.Keep = None,
    id_column: options.Id = None,
    output: options.Output = None,
    format: options.RowFormat = None,
    chosen: AnswerOptions,
    batch_size: options.BatchSize = 32,
    max_length: options.MaxLength = None,
    precision: options.Precision = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    on_ray: RayOptions,
) -> None:
    """Answer what the model was trained for: a result for each row of the input, in the same order.

    Labels with their scores, values of a regression, entities, answers to questions (columns question and context),
    the best of several choices (--choice-columns). An empty text has no answer: null. Without --model the labels are
    positive and negative. With --ray on all CPUs, or those of a cluster, into a directory of parts.

    Example:

        echo "What a lovely film." | squeezebert-fast predict -
        printf 'order,review\\n7,A waste of time.\\n' > reviews.csv
        squeezebert-fast predict reviews.csv --column review --id order
    """
    output = None if output == STDOUT else output
    written_format = (
        row_format(output, format) if on_ray.ray is None else on_ray.format(output, format, "jsonl")
    )
    files_of(source, input_format)  # a file that isn't there is said before anything heavy is imported

    from squeezebert_fast.answering.failing import each_answered
    from squeezebert_fast.answering.predictor import Predictor
    from squeezebert_fast.answering.rows import answered
    from squeezebert_fast.cli.kept import kept_columns_named
    from squeezebert_fast.ray.work import Prediction

    predictor = Predictor(model, chosen)
    answers = predictor.answers
    if answers.as_lists and written_format == "csv":
        raise InputError(f"the answers of {model} are lists, which CSV has no place for; give --format jsonl")
    if pair_column and not answers.takes_pairs:
        raise InputError(f"--pair-column means nothing for {answers.name}")
    usual, usual_pair = predictor.columns
    given = {"column": column, "pair_column": pair_column, "choice_columns": chosen.choice_columns}
    with kept_columns_named(model, predictor.stored.trained_with, given):
        reading: dict[str, Any] = {
            "format": input_format,
            "column": column,
            "pair_column": usual_pair if pair_column is None else pair_column or None,
            "default_column": usual,
            "choice_columns": answers.choice_columns,
            "keep": options.kept_columns(id_column, keep),
            "delimiter": delimiter,
            "on_error": on_error,
        }
        records = Input(source, **reading)
    engine = EngineOptions(backend=backend, threads=threads, max_length=max_length, precision=precision)
    if on_ray.ray is not None and output is not None:  # as `format` has made sure
        work = Prediction(model=model, chosen=chosen, engine=engine, batch_size=batch_size)
        run_on_ray(on_ray, work, records, reading, output, written_format, NO_ANSWER)
        return
    output = None if output is None else checked_output(output, records.files)
    predictor.load(engine)
    blanks = Blanks()
    with row_writer(output, written_format) as write:
        results = each_answered(
            records,
            lambda some: predictor.run(some, batch_size),
            answers.nothing(),
            records.unreadable,
            batch_size,
        )
        for record, answer in tracked(results, records, to_stdout=output is None):
            if record.is_blank and not record.problem:
                blanks.note(record.place)
            write(answered(record, record.kept if records.kept else answers.asked(record), answer, on_error))
    with held_warnings():
        records.unreadable.warn()
        blanks.warn(NO_ANSWER)
