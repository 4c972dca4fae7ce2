"""`squeezebert-fast distill`."""

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
from squeezebert_fast.errors import InputError
from squeezebert_fast.trained_with import DEFAULT_LENGTH, TrainedWith
from squeezebert_fast.training.model_sizes import Sizes
from squeezebert_fast.training.settings import Settings, Softness

if TYPE_CHECKING:
    from squeezebert_fast.training.runs import Built


@spread
def distill(
    train: TrainFile,
    run: RunFlags,
    teacher: Annotated[
        str,
        typer.Option(
            help="A fine-tuned model, as for --model; for texts with a label, any that transformers loads."
        ),
    ],
    settings: Settings,
    softness: Softness,
    data: TaskOptions,
    sizes: Sizes,
    dev: Dev = None,
    model: StartModel = None,
    init_from_teacher: Annotated[
        bool,
        typer.Option("--init-from-teacher", help="Start a new model with what fits of the teacher's layers."),
    ] = False,
    fit_to_teacher: Annotated[
        bool,
        typer.Option(
            "--fit-to-teacher",
            help="Then fit the new model's convolutions to the teacher's by least squares, on some training texts.",
        ),
    ] = False,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Give a new model this many of the teacher's tokens: those of the training texts, every character, "
            "and the most frequent of the others.",
        ),
    ] = None,
    task: TaskName = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    device: options.Device = "auto",
) -> None:
    """Train a small model to answer as a fine-tuned larger one does.

    The teacher answers every training example once, before the first step. A new model has the teacher's vocabulary
    unless --vocab says otherwise. Task, columns, maximum length and metric are by default what the teacher was trained
    with. The rest is as in finetune.

    Example:

        echo 'text,label' > train.csv
        echo 'A lovely film.,positive' >> train.csv
        echo 'A waste of time.,negative' >> train.csv
        TEACHER=shipped:sentiment
        squeezebert-fast distill train.csv --teacher $TEACHER --layers 2 -o small
    """
    kept = TrainedWith.of_model(teacher)
    name = task_name(task, kept)
    data.check(name)
    sizes.check_start(model, has_vocab=True)
    if init_from_teacher and model is not None:
        raise InputError("--init-from-teacher is for a new model, but --model gives one to start from")

    if fit_to_teacher and not init_from_teacher:
        raise InputError("--fit-to-teacher needs --init-from-teacher, which gives what isn't fitted")
    if vocab_size is not None and (model is not None or sizes.vocab is not None):
        given = "--model" if model is not None else "--vocab"
        raise InputError(f"--vocab-size takes a part of the teacher's vocabulary, but {given} gives another")

    from squeezebert_fast.answering.running import use_threads
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.pretrained import find
    from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
    from squeezebert_fast.training import devices, distillation, fitting, inheritance, models, runs, teachers
    from squeezebert_fast.training.labels import in_order

    use_threads(threads)
    chosen_device = devices.choose(device)
    chosen = make_task(name, data, kept)
    usual_length = kept.for_task(name).max_length

    def build(examples: list[Any]) -> Built:
        as_it_is = model is not None and not find(model).is_own
        known = teachers.load_teacher(teacher, chosen, chosen_device, of_own_library=as_it_is)
        fields = chosen.label_fields(examples, in_order(known.labels), teacher=True)
        vocab = known.tokenizer if isinstance(known.tokenizer, SqueezeBertTokenizerFast) else None
        if vocab_size is not None:
            if vocab is None:
                raise InputError(
                    f"--vocab-size needs a teacher of the BERT family; {teacher} has other tokens"
                )
            length = settings.max_length or usual_length or DEFAULT_LENGTH
            rows = chosen.encode(examples, vocab, SqueezeBertConfig(**fields), length)
            used = {index for row in rows for index in distillation.flat(row["input_ids"])}
            vocab = inheritance.smaller_vocabulary(vocab, used, vocab_size)
        student, tokenizer = models.start(chosen, model, sizes, fields, settings.seed, vocab=vocab)
        student.to(chosen_device)
        words = inheritance.shared_words(tokenizer, known.tokenizer)
        if init_from_teacher:
            copied = inheritance.copy_from_teacher(student, known.model, words)
            if copied == 0:
                raise InputError(f"nothing of the teacher {teacher} has the shape of the new model's parts")
        if fit_to_teacher:
            models.check_fit(student, tokenizer, settings.max_length)
            length = min(models.cut_at(student, settings.max_length, usual_length), known.length)
            rows = chosen.encode(examples, tokenizer, student.config, length)
            batch = chosen.collate(fitting.texts_to_fit(rows, settings.seed), tokenizer.pad_token_id or 0, 0)
            fitting.fit_to_teacher(student, known.model, devices.moved(batch, chosen_device), words)
        distilled = distillation.Distilled(chosen, known, softness)
        return runs.Built(student, tokenizer, distilled, new_model=model is None)

    with kept_columns_named(teacher, kept.for_task(name), vars(data)):
        runs.train(
            chosen,
            train,
            dev,
            build,
            settings,
            run.to_output(),
            origin=origin(
                command="distill",
                teacher=teacher,
                model=model,
                init_from_teacher=init_from_teacher,
                fit_to_teacher=fit_to_teacher,
                vocab_size=vocab_size,
                task=name,
                softness=softness,
                data=data.filled(name, kept),
                sizes=sizes,
                backend=backend,
            ),
            backend=backend,
            device=chosen_device,
            usual_length=usual_length,
        )
