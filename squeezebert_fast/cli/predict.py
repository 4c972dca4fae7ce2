"""`squeezebert-fast predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.answers.options import AnswerOptions
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.writing import STDOUT, beside, checked_output, row_format, row_writer, tracked
from squeezebert_fast.errors import InputError
from squeezebert_fast.shipped import SENTIMENT_MODEL
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.blanks import Blanks
from squeezebert_fast.tables.rows import Input
from squeezebert_fast.tables.sources import files_of


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
) -> None:
    """Answer what the model was trained for: a result for each row of the input, in the same order.

    Labels with their scores, values of a regression, entities, answers to questions (columns question and context),
    the best of several choices (--choice-columns). An empty text has no answer: null. Without --model the labels are
    positive and negative.

    Example: squeezebert-fast predict reviews.csv --column review --id order -o labels.csv
    """
    output = None if output == STDOUT else output
    written_format = row_format(output, format)
    files_of(source, input_format)  # a file that isn't there is said before anything heavy is imported

    from squeezebert_fast.cli.answers.kinds import kind_of
    from squeezebert_fast.cli.kept import kept_columns_named
    from squeezebert_fast.cli.running import load_engine, run_in_order
    from squeezebert_fast.pretrained import find

    stored = find(model)
    kind = kind_of(stored)
    answers = kind(chosen, stored)
    if answers.as_lists and written_format == "csv":
        raise InputError(f"the answers of {model} are lists, which CSV has no place for; give --format jsonl")
    if pair_column and not kind.takes_pairs:
        raise InputError(f"--pair-column means nothing for {kind.name}")
    kept = stored.trained_with
    default, default_pair = kind.default_columns
    given = {"column": column, "pair_column": pair_column, "choice_columns": chosen.choice_columns}
    with kept_columns_named(model, kept, given):
        records = Input(
            source,
            input_format,
            column,
            (kept.pair_column or default_pair) if pair_column is None else pair_column or None,
            default_column=kept.column or default,
            choice_columns=answers.choice_columns,
            keep=options.kept_columns(id_column, keep),
            delimiter=delimiter,
        )
    output = None if output is None else checked_output(output, records.files)
    engine = load_engine(
        kind.head,
        stored,
        backend=backend,
        threads=threads,
        max_length=max_length,
        precision=precision,
        usual_length=kept.max_length,
    )
    results = run_in_order(records, answers.steps(engine), batch_size, lambda record: record.is_blank)
    blanks = Blanks()
    with row_writer(output, written_format) as write:
        for record, rows in tracked(results, records, to_stdout=output is None):
            if not rows:
                blanks.note(record.place)
            answer = answers.answer(record, rows) if rows else answers.nothing()
            write(beside(record.kept if records.kept else answers.asked(record), answer))
    with held_warnings():
        blanks.warn("their answer is null")
