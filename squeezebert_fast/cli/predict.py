"""`squeezebert-fast predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.writing import checked_output, row_format, row_writer, tracked
from squeezebert_fast.errors import InputError
from squeezebert_fast.shipped import SENTIMENT_MODEL
from squeezebert_fast.tables.rows import Input, Record

if TYPE_CHECKING:
    from torch import Tensor

    from squeezebert_fast.pretrained import Config


def predict(
    source: options.InputFile,
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
    output: options.Output = None,
    format: Annotated[
        str | None, typer.Option(help="jsonl or csv; by default as the output's suffix says, or else jsonl.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels to give for each text, the best first.")] = 1,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Give the score of every label too.")
    ] = False,
    batch_size: options.BatchSize = 32,
    max_length: options.MaxLength = None,
    precision: options.Precision = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
) -> None:
    """Classify texts: a label and its score for each, in the order of the input.

    Scores are probabilities; of a regression model they are its values. Without --model the labels are positive and
    negative.

    Example: squeezebert-fast predict --column review reviews.csv
    """
    records = Input(source, input_format, column, pair_column)
    written_format = row_format(output, format)
    output = None if output is None else checked_output(output, source)

    from squeezebert_fast.cli.running import load_engine, run_in_order
    from squeezebert_fast.modeling import SqueezeBertForSequenceClassification

    engine = load_engine(
        SqueezeBertForSequenceClassification,
        model,
        backend=backend,
        threads=threads,
        max_length=max_length,
        precision=precision,
    )
    config = engine.model.config
    if top_k > config.num_labels:
        raise InputError(f"--top-k is {top_k}, but {model} has {config.num_labels} labels")

    def forward(batch: dict[str, Tensor]) -> Tensor:
        return _scores(engine.model(**engine.inputs(batch)).logits, config)

    results = run_in_order(records, engine, forward, batch_size)
    with row_writer(output, written_format) as write:
        for record, scores in tracked(results, records, to_stdout=output is None):
            write(_row(record, scores, config, top_k, all_scores))


def _scores(logits: Tensor, config: Config) -> Tensor:
    if config.problem_type == "regression" or config.num_labels == 1:
        return logits
    if config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(-1)


def _row(record: Record, scores: Tensor, config: Config, top_k: int, all_scores: bool) -> dict[str, object]:
    labels = config.id2label or {}
    row: dict[str, object] = {"text": record.text}
    if record.pair is not None:
        row["pair"] = record.pair
    best = scores.topk(top_k)
    for place, (score, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True), 1):
        suffix = "" if place == 1 else f"_{place}"
        row |= {f"label{suffix}": labels.get(index, str(index)), f"score{suffix}": score}
    if all_scores:
        row |= {
            f"score[{labels.get(index, str(index))}]": score for index, score in enumerate(scores.tolist())
        }
    return row
