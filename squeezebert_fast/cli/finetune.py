"""`squeezebert-fast finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.kept import kept_columns_named
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.task_options import (
    Dev,
    RunFlags,
    StartModel,
    TaskName,
    TaskOptions,
    TrainFile,
    make_task,
    origin,
    task_name,
)
from squeezebert_fast.trained_with import TrainedWith
from squeezebert_fast.training.model_sizes import Sizes
from squeezebert_fast.training.settings import Settings

if TYPE_CHECKING:
    from squeezebert_fast.training.runs import Built


@spread
def finetune(
    train: TrainFile,
    run: RunFlags,
    settings: Settings,
    data: TaskOptions,
    sizes: Sizes,
    dev: Dev = None,
    model: StartModel = None,
    task: TaskName = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    device: options.Device = "auto",
    head_first: Annotated[
        bool,
        typer.Option(
            help="Fit a new classifier or regression to the encoder as it is, before both are trained."
        ),
    ] = True,
) -> None:
    """Train a model for a task, and leave the best one in a folder that every command takes as --model.

    A model that was trained for the same task before goes on with its columns, maximum length and metric.

    Ctrl-C leaves a checkpoint; the same command with --resume goes on, to the same result. torchrun starts it on
    several processes, each with a GPU of its own if there are GPUs.

    Example:

        MODEL=sentence-transformers/all-MiniLM-L6-v2
        echo 'text,label' > train.csv
        echo 'A lovely film.,positive' >> train.csv
        echo 'A waste of time.,negative' >> train.csv
        squeezebert-fast finetune train.csv -m $MODEL -o films
    """
    sizes.check_start(model)
    kept = TrainedWith() if model is None else TrainedWith.of_model(model)
    name = task_name(task, kept)
    data.check(name)

    from squeezebert_fast.answering.running import use_threads
    from squeezebert_fast.training import devices, models, runs
    from squeezebert_fast.training.labels import refuse_numbers

    use_threads(threads)
    chosen_device = devices.choose(device)
    chosen = make_task(name, data, kept)

    def build(examples: list[Any]) -> Built:
        if task is None and name == "classification" and kept.task is None and data.labels is None:
            refuse_numbers([example.label for example in examples])
        known = models.known_labels(chosen, model)
        fields = chosen.label_fields(examples, known)
        started, tokenizer = models.start(chosen, model, sizes, fields, settings.seed)
        new_head = model is not None and set(fields.get("label2id", ())) != set(known)
        return runs.Built(started, tokenizer, chosen, model is None, new_head)

    with kept_columns_named(str(model), kept.for_task(name), vars(data)):
        runs.train(
            chosen,
            train,
            dev,
            build,
            settings,
            run.to_output(),
            origin=origin(
                command="finetune",
                model=model,
                task=name,
                data=data.filled(name, kept),
                sizes=sizes,
                backend=backend,
                head_first=head_first,
            ),
            backend=backend,
            device=chosen_device,
            head_first=head_first,
            usual_length=kept.for_task(name).max_length,
        )
