"""`squeezebert-fast pretrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.cli.task_options import RunFlags, StartModel, origin
from squeezebert_fast.training.model_sizes import Sizes
from squeezebert_fast.training.settings import Settings

if TYPE_CHECKING:
    from squeezebert_fast.training.runs import Built


@spread
def pretrain(
    train: Annotated[str, typer.Argument(metavar="TEXT", help="Plain text, a sentence or paragraph a line.")],
    run: RunFlags,
    settings: Settings,
    sizes: Sizes,
    dev: Annotated[
        str | None, typer.Option(help="Text to choose the best model by and to stop early by.")
    ] = None,
    model: StartModel = None,
    mask_probability: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="The share of the tokens that are to be predicted.")
    ] = 0.15,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    device: options.Device = "auto",
) -> None:
    """Train a model to fill in masked words of plain text, to be fine-tuned from; each epoch masks anew.

    Example:

        echo 'The first sentence.' > corpus.txt
        echo 'The second one.' >> corpus.txt
        VOCAB=shipped:sentiment
        squeezebert-fast pretrain corpus.txt --layers 2 --vocab $VOCAB -o base
    """
    sizes.check_start(model)

    from squeezebert_fast.answering.running import use_threads
    from squeezebert_fast.training import devices, models, runs
    from squeezebert_fast.training.tasks.masked import MaskedLanguageModel

    use_threads(threads)
    chosen_device = devices.choose(device)
    task = MaskedLanguageModel(settings.seed, mask_probability)

    def build(_: list[Any]) -> Built:
        started, tokenizer = models.start(task, model, sizes, {}, settings.seed)
        return runs.Built(started, tokenizer, task, new_model=model is None)

    runs.train(
        task,
        train,
        dev,
        build,
        settings,
        run.to_output(),
        origin=origin(
            command="pretrain", model=model, mask_probability=mask_probability, sizes=sizes, backend=backend
        ),
        backend=backend,
        device=chosen_device,
    )
