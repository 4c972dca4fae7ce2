"""A whole run, from examples and a model to the finished output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from squeezebert_fast.errors import InputError
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import Model, Tokenizer
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.dataset_directory import data_files
from squeezebert_fast.tables.sources import STDIN, name_of
from squeezebert_fast.trained_with import TrainedWith
from squeezebert_fast.training import devices
from squeezebert_fast.training.head_start import fit_head
from squeezebert_fast.training.loop import Trainer
from squeezebert_fast.training.models import check_fit, cut_at
from squeezebert_fast.training.optimizing import check_precision
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.reporting import Reporter
from squeezebert_fast.training.run_folder import RunFolder
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.stopping import sigterm_as_ctrl_c
from squeezebert_fast.training.tasks.base import DataSet, Task


class Built(NamedTuple):
    """What a run trains."""

    model: Model
    tokenizer: Tokenizer
    task: Task
    new_model: bool = False
    """Whether nothing of it is trained."""
    new_head: bool = False
    """Whether its encoder is trained, and its head is not."""


@dataclass(frozen=True)
class Output:
    """Where a run goes, what may be there already, and whether stdout gets the summary, and that alone."""

    path: Path
    resume: bool = False
    overwrite: bool = False
    as_json: bool = False


def train(
    task: Task,
    train_file: str,
    dev_file: str | None,
    build: Callable[[list[Any]], Built],
    settings: Settings,
    output: Output,
    *,
    origin: Mapping[str, Any],
    backend: str = "auto",
    device: torch.device = devices.CPU,
    usual_length: int | None = None,
    head_first: bool = False,
) -> None:
    """Read, train, evaluate and save, and print how it ended; metrics.json has the summary.

    build: from the training examples to the model, its tokenizer and the task to train, which may be `task` with
        soft targets. origin: what else a resumed run must share, by the name of its option. device: what
        `devices.choose` gave; `build` may leave the model on another. usual_length: tokens at which inputs are cut
        where the settings don't say it and the model takes as many; by default DEFAULT_LENGTH.
    head_first: whether a new head is fitted to the encoder as it is, before the first step.
    Raises the errors of reading, loading and of `Trainer.run`; until training begins nothing is written.
    """
    check_precision(settings.precision, device)
    folder = RunFolder(output.path)
    flags = {"resume": output.resume, "overwrite": output.overwrite}
    with ExitStack() as until_end, Processes.joined(device) as processes:
        if processes.world == 1:  # a process that waits for others, within a library, would not hear it
            until_end.enter_context(sigterm_as_ctrl_c())
        digests = {
            "train": _digest(task, train_file),
            "dev": None if dev_file is None else _digest(task, dev_file),
        }
        binding = {**origin, **digests, **settings.binding()}
        with held_warnings():

            def claim() -> None:
                # before it is made, and again in `begin` once it is this run's
                folder.check(binding, **flags)
                until_end.enter_context(folder.locked())

            processes.from_first(claim)
            examples = task.read(train_file)
            dev_examples = None if dev_file is None else task.read(dev_file)
            model, tokenizer, task, new_model, new_head = build(examples)
            check_fit(model, tokenizer, settings.max_length)
            length = cut_at(model, settings.max_length, usual_length)

            def encoded(chosen: list[Any]) -> DataSet:
                return DataSet(chosen, task.encode(chosen, tokenizer, model.config, length))

            dev = None if dev_examples is None else encoded(dev_examples)
            data = encoded(examples)
            metric = None if dev is None else settings.metric or task.metrics[0]
            trained_with = TrainedWith(task=task.name, max_length=length, metric=metric, **task.kept())
            trained_with.keep_in(model.config)
            patch(model.to(device), backend=backend)
            pad = model.config.pad_token_id or 0
            fits = head_first and new_head and not (output.resume and folder.has_state)
            fitted = fits and fit_head(model, task, data, pad, settings.seed, processes, device=device)
            reporter = Reporter(quiet=not processes.first, as_json=output.as_json)
            steps_per_epoch = -(-len(data.rows) // settings.batch_size)
            trainer = Trainer(
                model,
                task,
                data,
                dev,
                pad=pad,
                settings=settings.filled(model.config.hidden_size, new_model, steps_per_epoch),
                starts_trained=fitted,
                folder=folder,
                processes=processes,
                reporter=reporter,
                device=device,
            )
            if task.reading:
                reporter.say(task.reading)
            if fitted:
                reporter.say("the new head was fitted to the encoder as it is, before the first step")
            task.before_training(data, model.config, processes)

        def begin() -> None:
            if output.resume and not folder.holds_run:
                reporter.say(f"{output.path} holds no run to resume: a new one begins")
            folder.begin(binding, **flags)
            folder.save_tokenizer(tokenizer)

        processes.from_first(begin)
        summary = trainer.run()
        _announce(summary, output.path, reporter)


def _announce(summary: Mapping[str, Any], path: Path, reporter: Reporter) -> None:
    best, metric = summary["best"], summary["metric"]
    result = (
        "no dev data, so the last model was kept"
        if best is None
        else f"best dev {metric} {best['dev'][metric]:.4f} at step {best['step']}"
    )
    peak = summary.get("peak_memory_bytes")
    memory = "" if peak is None else f"; at most {peak / 1e9:.2f} GB of {summary['device']}"
    reporter.end({"path": str(path), **summary}, f"{path}: {result}{memory}")


def _digest(task: Task, file: str) -> str:
    """What tells the content of a task's file from another's."""
    if file == STDIN or Path(file).is_fifo():
        raise InputError(
            f"training data can't come from a pipe, {name_of(file)}: a resumed run reads it again"
        )
    digest = hashlib.sha256()
    for name in task.files(file):
        path = Path(name)
        for part in data_files(path) if path.is_dir() else [path]:
            digest.update(part.read_bytes())
    return digest.hexdigest()
