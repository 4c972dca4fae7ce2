"""The options that the commands for training and evaluating share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezebert_fast.answering.options import CHOICE_COLUMNS_HELP
from squeezebert_fast.cli.options import COLUMN_HELP, DELIMITER_HELP, PAIR_COLUMN_HELP, completing
from squeezebert_fast.errors import InputError, check_among
from squeezebert_fast.tables.rows import DEFAULT_COLUMN
from squeezebert_fast.trained_with import DEFAULT_STRIDE

if TYPE_CHECKING:
    from squeezebert_fast.pretrained import Pretrained
    from squeezebert_fast.trained_with import TrainedWith
    from squeezebert_fast.training.runs import Output
    from squeezebert_fast.training.tasks.judged import JudgedTask

EXAMPLES_HELP = (
    "A table (.csv, .tsv, .jsonl, .json or .parquet), or for tags a CoNLL file and for questions a SQuAD file; also "
    "compressed (.gz, .bz2, .xz, .zst); a directory of such files, or a quoted pattern like 'parts/*.csv'."
)
TrainFile = Annotated[str, typer.Argument(metavar="TRAIN", help=f"The training examples. {EXAMPLES_HELP}")]
Dev = Annotated[
    str | None,
    typer.Option(help="Examples, in a file like TRAIN, to choose the best model by and to stop early by."),
]
TABLE = {"column", "label_column", "input_format", "delimiter"}
TASKS = {
    "classification": TABLE | {"pair_column", "labels"},
    "regression": TABLE | {"pair_column"},
    "multiple-choice": TABLE | {"choice_columns"},
    "token-classification": {"labels"},
    "question-answering": {"stride"},
}
"""The tasks, and the fields of TaskOptions that mean something for each."""

USUAL: dict[str, Any] = {"column": DEFAULT_COLUMN, "label_column": "label", "stride": DEFAULT_STRIDE}

HEADS = {
    "SequenceClassification": "classification",
    "MultipleChoice": "multiple-choice",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
}
"""The task of each head, as names of classes end after `For`; a sequence classifier's may be regression too."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Where a table has what, and how a task reads its data; None is what the model was trained with, or else usual."""

    column: str | None = field(
        default=None,
        metadata={"help": COLUMN_HELP},
    )
    pair_column: str | None = field(default=None, metadata={"help": PAIR_COLUMN_HELP})
    choice_columns: str | None = field(
        default=None,
        metadata={"help": CHOICE_COLUMNS_HELP},
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "The column that holds the label (of a multiple choice the number of the right one, from 0); by "
            "default the one the model was trained with, or else 'label'."
        },
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Names, separated by commas, for the labels 0, 1, ... of the data and of a model without names. "
            "Without it, a file's labels are a model's by name, whatever their case; whole numbers from 0 stand for "
            "the model's labels in their order."
        },
    )
    input_format: str | None = field(
        default=None,
        metadata={
            "help": "Read the data as csv, tsv, jsonl, json or parquet, whatever its suffix says; by default as that "
            "says.",
            "values": ("csv", "tsv", "jsonl", "json", "parquet"),
        },
    )
    delimiter: str | None = field(
        default=None,
        metadata={"help": DELIMITER_HELP},
    )
    stride: int | None = field(
        default=None,
        metadata={
            "help": "Tokens by which the windows of a question's paragraph overlap; by default as in the model's "
            f"training, or else {DEFAULT_STRIDE}.",
            "at_least": 0,
        },
    )

    def check(self, task: str) -> None:
        """Raise InputError for a task that doesn't exist, or an option that means nothing for it."""
        check_among("the task", task, list(TASKS), InputError)
        for each in dataclasses.fields(self):
            if each.name not in TASKS[task] and getattr(self, each.name) is not None:
                raise InputError(f"--{each.name.replace('_', '-')} means nothing for {task}")

    def filled(self, task: str, kept: TrainedWith) -> TaskOptions:
        """These options, with what they don't say from `kept`, if that is of the same task, or as is usual.

        Raises InputError as `check` does.
        """
        self.check(task)
        known, values = kept.for_task(task), dict(USUAL)
        for each in dataclasses.fields(self):
            for source in (known, self):
                value = getattr(source, each.name, None)
                values |= {} if value is None else {each.name: value}
        return TaskOptions(**values)


TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help=f"One of {', '.join(TASKS)}; by default that which the model was trained for, or else classification.",
        autocompletion=completing(TASKS),
    ),
]
StartModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="The model to start from, a directory or hub id; by default a new one."
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Where a run goes."""

    output: str = field(
        metadata={"help": "The folder for the model, log and checkpoint.", "names": ("--output", "-o")}
    )
    resume: bool = field(
        default=False,
        metadata={
            "help": "Go on with the run in the output folder, if there is one; else begin it.",
            "names": ("--resume",),
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Start anew in a folder that holds files already.", "names": ("--overwrite",)},
    )
    as_json: bool = field(
        default=False,
        metadata={
            "help": "Print how it ended as JSON, as in metrics.json; what happens until then goes to stderr.",
            "names": ("--json",),
        },
    )

    def to_output(self) -> Output:
        """As the library takes it. Raises CheckpointError for an empty name."""
        from squeezebert_fast.storage.files import directory_named
        from squeezebert_fast.training.runs import Output

        return Output(directory_named(self.output), self.resume, self.overwrite, self.as_json)


def task_name(given: str | None, kept: TrainedWith) -> str:
    """The task that an option names, or else that of the model to start from."""
    return given or (kept.task if kept.task in TASKS else None) or "classification"


def make_task(name: str, chosen: TaskOptions, kept: TrainedWith, *, whole_rows: bool = False) -> JudgedTask:
    """The task of that name; what the options don't say is as a model has it. Raises as `TaskOptions.check` does.

    whole_rows: whether examples of a table are to have all of its columns.
    """
    task = _made(name, chosen.filled(name, kept), whole_rows)
    task.prefer(kept.for_task(name).metric)
    return task


def _made(name: str, chosen: TaskOptions, whole_rows: bool) -> JudgedTask:
    assert chosen.column is not None
    assert chosen.label_column is not None
    assert chosen.stride is not None
    from squeezebert_fast.training.tasks import choices, questions, sequences, tokens

    if name == "token-classification":
        return tokens.TokenClassification(_names(chosen.labels))
    if name == "question-answering":
        return questions.QuestionAnswering(chosen.stride)
    columns: dict[str, Any] = {
        "text": chosen.column,
        "label": chosen.label_column,
        "format": chosen.input_format,
        "delimiter": chosen.delimiter,
        "whole_rows": whole_rows,
    }
    if name == "multiple-choice":
        names = tuple(part.strip() for part in (chosen.choice_columns or "").split(",") if part.strip())
        return choices.MultipleChoice(choices.ChoiceColumns(choices=names, **columns))
    kind = sequences.Regression if name == "regression" else sequences.SequenceClassification
    table = sequences.TableColumns(pair=chosen.pair_column or None, **columns)
    return kind(table, _names(chosen.labels))


def _names(labels: str | None) -> list[str]:
    """The names of --labels. Raises InputError for less than two, or one that comes twice."""
    if labels is None:
        return []
    names = [name.strip() for name in labels.split(",")]
    if len(names) < 2 or not all(names):
        raise InputError(f"--labels is {labels!r}, expected two names or more, separated by commas")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--labels names {name!r} more than once")
    return names


def task_of(model: Pretrained, chosen: TaskOptions, *, whole_rows: bool = False) -> JudgedTask:
    """The task that a checkpoint was trained for, on data as it was; whole_rows: of `make_task`.

    Raises InputError for one without a task's head.
    """
    kind = model.architecture or "model of no class"
    name = HEADS.get(kind.partition("For")[2])
    if name is None:
        raise InputError(f"{model.name} is a {kind}, expected a model that was trained for a task")
    config = model.config()
    if name == "classification" and (config.problem_type == "regression" or config.num_labels == 1):
        name = "regression"
    return make_task(name, chosen, model.trained_with, whole_rows=whole_rows)


def origin(**options: Any) -> dict[str, Any]:
    """What a resumed run must share, dataclasses spread out, as JSON values."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= dataclasses.asdict(value) if dataclasses.is_dataclass(value) else {name: value}  # type: ignore[arg-type]
    return {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}
