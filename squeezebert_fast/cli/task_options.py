"""The options that the commands for training and evaluating share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezebert_fast.cli.group import InputError
from squeezebert_fast.cli.reading import DEFAULT_COLUMN

if TYPE_CHECKING:
    from squeezebert_fast.training.runs import Output
    from squeezebert_fast.training.tasks.base import Task

TrainFile = Annotated[str, typer.Argument(metavar="TRAIN", help="The training examples.")]
Dev = Annotated[str | None, typer.Option(help="Examples to choose the best model by and to stop early by.")]
TASKS = ("classification", "regression")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table hold what."""

    column: str = field(default=DEFAULT_COLUMN, metadata={"help": "The column that holds the text."})
    pair_column: str | None = field(
        default=None, metadata={"help": "The column that holds the second text of a pair."}
    )
    label_column: str = field(default="label", metadata={"help": "The column that holds the label."})
    input_format: str | None = field(
        default=None, metadata={"help": "csv, tsv, jsonl or parquet, where the file's suffix doesn't say it."}
    )


TaskName = Annotated[str, typer.Option("--task", help=f"One of {', '.join(TASKS)}.")]
StartModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="The model to start from, a directory or hub id; by default a new one."
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Where a run goes."""

    output: Path = field(
        metadata={"help": "The folder for the model, log and checkpoint.", "names": ("--output", "-o")}
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on with the run in the output folder.", "names": ("--resume",)}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Start anew in a folder that holds files already.", "names": ("--overwrite",)},
    )

    def to_output(self) -> Output:
        """As the library takes it."""
        from squeezebert_fast.training.runs import Output

        return Output(self.output.expanduser(), self.resume, self.overwrite)


def make_task(name: str, columns: Columns) -> Task:
    """The task of that name, reading these columns. Raises InputError for an unknown one."""
    check_task(name)
    from squeezebert_fast.training.tasks.sequences import Regression, SequenceClassification, TableColumns

    table = TableColumns(columns.column, columns.pair_column, columns.label_column, columns.input_format)
    return {"classification": SequenceClassification, "regression": Regression}[name](table)


def task_of(model: str, columns: Columns) -> Task:
    """The task that a checkpoint was trained for. Raises InputError for one without a task's head."""
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.loading.checkpoint import CONFIG_NAME
    from squeezebert_fast.loading.hub import ModelFiles

    config = SqueezeBertConfig.from_json_file(ModelFiles(model).required(CONFIG_NAME))
    kind = (config.architectures or ["model of no class"])[0]
    numbers = config.problem_type == "regression" or config.num_labels == 1
    name = {"SqueezeBertForSequenceClassification": "regression" if numbers else "classification"}.get(kind)
    if name is None:
        raise InputError(f"{model} is a {kind}, expected a model that was trained for a task")
    return make_task(name, columns)


def check_task(name: str) -> None:
    """Raise InputError for a task that doesn't exist."""
    if name not in TASKS:
        raise InputError(f"the task is {name!r}, expected one of {', '.join(TASKS)}")


def origin(**options: Any) -> dict[str, Any]:
    """What a resumed run must share, dataclasses spread out, as JSON values."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= dataclasses.asdict(value) if dataclasses.is_dataclass(value) else {name: value}  # type: ignore[arg-type]
    return {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}
