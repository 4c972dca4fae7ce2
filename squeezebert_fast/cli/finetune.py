"""`squeezebert-fast finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezebert_fast.cli import options
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
)
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
    task: TaskName = "classification",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    device: options.Device = "auto",
    head_first: Annotated[
        bool,
        typer.Option(
            help="Fit a new head to the encoder as it is before training both (logistic or ridge regression)."
        ),
    ] = True,
) -> None:
    """Train a model for a task, and leave the best one in a folder that every command takes as --model.

    Ctrl-C leaves a checkpoint; the same command with --resume goes on, to the same result. torchrun starts it on
    several processes, each with a GPU of its own if there are GPUs.

    Example: squeezebert-fast finetune train.tsv --dev dev.tsv -m ./squeezebert -o ./sentiment
    """
    data.check(task)
    sizes.check_start(model)

    from squeezebert_fast.cli.running import use_threads
    from squeezebert_fast.training import devices, models, runs

    use_threads(threads)
    chosen_device = devices.choose(device)
    chosen = make_task(task, data)

    def build(examples: list[Any]) -> Built:
        fields = chosen.label_fields(examples)
        started, tokenizer = models.start(chosen, model, sizes, fields, settings.seed)
        new_head = model is not None and models.lacks_head(chosen, model, fields)
        return runs.Built(started, tokenizer, chosen, new_head)

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
            task=task,
            data=data,
            sizes=sizes,
            backend=backend,
            head_first=head_first,
        ),
        backend=backend,
        device=chosen_device,
        head_first=head_first,
    )
