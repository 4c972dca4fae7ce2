"""A whole run, from examples and a model to the finished output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from squeezebert_fast.errors import InputError
from squeezebert_fast.loading.transformers_models import token_limit
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import Model, Tokenizer
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.dataset_directory import data_files, is_dataset
from squeezebert_fast.tables.rows import STDIN
from squeezebert_fast.training import devices
from squeezebert_fast.training.head_start import fit_head
from squeezebert_fast.training.loop import Trainer
from squeezebert_fast.training.models import check_fit
from squeezebert_fast.training.optimizing import check_precision
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.reporting import Reporter
from squeezebert_fast.training.run_folder import RunFolder
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.tasks.base import DataSet, Task

DEFAULT_LENGTH = 128  # tokens


class Built(NamedTuple):
    """What a run trains."""

    model: Model
    tokenizer: Tokenizer
    task: Task
    new_head: bool = False
    """Whether the model's encoder is trained, and its head is not."""


@dataclass(frozen=True)
class Output:
    """Where a run goes, and what may be there already."""

    path: Path
    resume: bool = False
    overwrite: bool = False


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
    head_first: bool = False,
) -> None:
    """Read, train, evaluate and save, and print how it ended; metrics.json has the summary.

    build: from the training examples to the model, its tokenizer and the task to train, which may be `task` with
        soft targets. origin: what else a resumed run must share, by the name of its option. device: what
        `devices.choose` gave; `build` may leave the model on another.
    Raises the errors of reading, loading and of `Trainer.run`; until training begins nothing is written.
    """
    check_precision(settings.precision, device)
    folder = RunFolder(output.path)
    flags = {"resume": output.resume, "overwrite": output.overwrite}
    with Processes.joined(device) as processes:
        digests = {"train": _digest(train_file), "dev": None if dev_file is None else _digest(dev_file)}
        binding = {**origin, **digests, **settings.binding()}
        processes.from_first(lambda: folder.check(binding, **flags))
        with held_warnings():
            examples = task.read(train_file)
            dev_examples = None if dev_file is None else task.read(dev_file)
            model, tokenizer, task, new_head = build(examples)
            check_fit(model, tokenizer, settings.max_length)
            length = settings.max_length or min(DEFAULT_LENGTH, token_limit(model.config))

            def encoded(chosen: list[Any]) -> DataSet:
                return DataSet(chosen, task.encode(chosen, tokenizer, model.config, length))

            dev = None if dev_examples is None else encoded(dev_examples)
            data = encoded(examples)
            patch(model.to(device), backend=backend)
            reporter = Reporter(quiet=not processes.first)
            trainer = Trainer(
                model,
                task,
                data,
                dev,
                pad=model.config.pad_token_id or 0,
                settings=settings,
                folder=folder,
                processes=processes,
                reporter=reporter,
                device=device,
            )
            if task.reading:
                reporter.say(task.reading)
            task.before_training(data, model.config, processes)
            if head_first and new_head and not (output.resume and folder.has_state):
                pad = model.config.pad_token_id or 0
                trainer.starts_trained = fit_head(
                    model, task, data, pad, settings.seed, processes, device=device
                )

        def begin() -> None:
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
    reporter.say(f"{path}: {result}{memory}")


def _digest(file: str) -> str:
    """What tells a file's content from another's."""
    if file == STDIN:
        raise InputError(
            "training data can't come from stdin, since a resumed run reads it again; give a file"
        )
    path, digest = Path(file), hashlib.sha256()
    if path.is_dir() and not is_dataset(path):
        raise InputError(f"{file} is a directory, expected a file, or what datasets saved")
    try:
        for part in data_files(path) if path.is_dir() else [path]:
            digest.update(part.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} doesn't exist") from None
    return digest.hexdigest()
