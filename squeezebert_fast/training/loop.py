"""A run's session: steps, evaluations and checkpoints, from where the last session stopped to the end or a stop.

resume -> [ evaluation, if due -> checkpoint, if due -> end? -> step ] -> summary
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Any, NoReturn

import torch

from squeezebert_fast.errors import (
    ArgumentError,
    StorageError,
    TrainingError,
    TrainingInterrupted,
    check_among,
)
from squeezebert_fast.pretrained import Model
from squeezebert_fast.training import devices, metrics
from squeezebert_fast.training.evaluation import can_choose, evaluate
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.progress import Progress
from squeezebert_fast.training.records import Records
from squeezebert_fast.training.reporting import Reporter, in_words
from squeezebert_fast.training.run_folder import RunFolder
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.stepping import NotFinite, Stepped, Steps
from squeezebert_fast.training.stopping import StopRequest
from squeezebert_fast.training.tasks.base import DataSet, Task

logger = logging.getLogger("squeezebert_fast.training")


class _Stopped(Exception):
    """A request to stop came during an evaluation."""


class Trainer:
    """Trains `model` in place.

    pad: the padding token's id. dev: None for no evaluation; the last model is then the best.
    folder: its `begin` must have been called. device: where `model` is. starts_trained: whether the model is worth an
    evaluation before the first step.
    Raises ArgumentError for a metric that the task doesn't have, and for settings of the evaluation without `dev`.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        train: DataSet,
        dev: DataSet | None,
        *,
        pad: int,
        settings: Settings,
        folder: RunFolder,
        processes: Processes,
        reporter: Reporter,
        device: torch.device = devices.CPU,
        starts_trained: bool = False,
    ) -> None:
        self.task, self.train, self.dev = task, train, dev
        self.pad, self.settings, self.folder = pad, settings, folder
        self.processes, self.reporter, self.device = processes, reporter, device
        self.metric = settings.metric or task.metrics[0]
        check_among("metric", self.metric, ("loss", *task.metrics))
        for name in ("metric", "patience", "evaluate_every"):
            if dev is None and getattr(settings, name) is not None:
                raise ArgumentError(f"{name} means nothing without dev data")
        if dev is not None and not can_choose(task, dev, self.metric):
            logger.warning(
                "the dev data can't tell models apart by %s, which is 0 for right answers too: the loss chooses",
                self.metric,
            )
        self.steps = Steps(model, task, train, pad=pad, settings=settings, processes=processes, device=device)
        self.progress = Progress()
        self.starts_trained = starts_trained
        self.records = Records(folder, processes, self.metric, own_loss=task.own_loss)

    def run(self) -> dict[str, Any]:
        """Train from where the folder's checkpoint stands, or from the start, to the end; returns the summary.

        Raises TrainingInterrupted, with everything saved, after a Ctrl-C or SIGTERM; with the last checkpoint kept
        TrainingError, for a loss or gradient that isn't finite and a GPU without enough memory, and StorageError, for
        a file that can't be written.
        """
        try:
            self._resume()
            with (
                StopRequest.from_signals(impatient=self.processes.world == 1) as stop,
                self.reporter.bar(self.steps.total, self.progress.step),
            ):
                return self._go_on(stop)
        except NotFinite as error:
            raise TrainingError(
                f"{error}: stopped before it reached the parameters; {self.records.kept}. A lower learning rate may "
                "help"
            ) from error
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self.device} has not enough memory after step {self.progress.step}: a larger --accumulate or a "
                f"smaller --batch-size needs less; {self.records.kept}"
            ) from error
        except StorageError as error:
            raise StorageError(
                f"{error}; {self.records.kept}, and once that is mended the same command with --resume goes on"
            ) from error

    def _go_on(self, stop: StopRequest) -> dict[str, Any]:
        while True:
            try:
                if self._evaluation_is_due():
                    self._evaluate(stop)
            except _Stopped:
                self._save_and_stop()
            step, finished = self.progress.step, self._finished()
            if finished or (step and (step % self.settings.save_every == 0 or self._epoch_ends(step))):
                self._save()
            if finished:
                return self._finish()
            self._step(stop)

    def _finished(self) -> bool:
        return self._out_of_patience or self.progress.step >= self.steps.total

    @property
    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _epoch_ends(self, step: int) -> bool:
        return step % self.steps.per_epoch == 0

    def _evaluation_is_due(self) -> bool:
        step, every = self.progress.step, self.settings.evaluate_every
        if self.dev is None or step == self.progress.evaluated:
            return False
        return self._epoch_ends(step) or step == self.steps.total or (every is not None and step % every == 0)

    def _step(self, stop: StopRequest) -> None:
        started = time.perf_counter()
        stepped = self.steps.make(self.progress.step, stop.made)
        if stepped is None:
            self._save_and_stop()
        self.progress.step += 1
        self.progress.skipped += not math.isfinite(stepped.norm)
        self._report(stepped, time.perf_counter() - started)

    def _evaluate(self, stop: StopRequest) -> None:
        assert self.dev is not None  # _evaluation_is_due
        started = time.perf_counter()
        step = self.progress.step
        batches = -(-len(self.dev.rows) // self.settings.batch_size)
        with self.reporter.evaluation(-(-batches // self.processes.world)) as advance:

            def each_batch() -> None:
                if stop.made and self.processes.world == 1:
                    raise _Stopped
                advance()

            dev = evaluate(
                self.steps.result,
                self.task,
                self.dev,
                self.pad,
                self.settings.batch_size,
                self.processes,
                each_batch,
                device=self.device,
            )
        self.progress.evaluated = step
        if metrics.beats(self.metric, dev, self.progress.best and self.progress.best["dev"]):
            self.progress.best = {"step": step, "epoch": step / self.steps.per_epoch, "dev": dev}
            self.progress.evaluations_since_best = 0
            self.records.model(self.steps.result)
        else:
            self.progress.evaluations_since_best += 1
        self.progress.seconds += time.perf_counter() - started
        epoch = step / self.steps.per_epoch
        self.reporter.say(f"step {step} of {self.steps.total}, epoch {epoch:.2f}: dev {in_words(dev)}")
        self.records.evaluation({"step": step, "epoch": epoch, "dev": dev})

    def _save(self) -> None:
        self.records.state(
            lambda: {
                **dataclasses.asdict(self.progress),
                **self.steps.state(),
                "total_steps": self.steps.total,
                **self._where(),
            }
        )

    def _where(self) -> dict[str, Any]:
        """What a run's bits depend on, and a resumed one may have another of: its summary's and checkpoint's words."""
        world, threads = self.processes.world, torch.get_num_threads()
        return {"device": self.device.type, "processes": world, "threads": threads}

    def _save_and_stop(self) -> NoReturn:
        self._save()
        what_model = ""
        if self.progress.best is None:  # else the folder has the best one
            self.records.model(self.steps.result)
            what_model = f", with that step's model in {self.folder.path}, since no evaluation has chosen one"
        self.records.curves()
        raise TrainingInterrupted(
            f"stopped after step {self.progress.step} of {self.steps.total}{what_model}; the same command with "
            "--resume goes on"
        )

    def _resume(self) -> None:
        # Every process reads the file itself: a network's worth of parameters is not for the group's messages.
        state = self.folder.load_state()
        if state is None:
            if self.starts_trained:
                self.progress.evaluated = -1
            self.records.forget_after(0)
            return
        try:
            self.steps.load(state)
            names = [each.name for each in dataclasses.fields(Progress)]
            self.progress = Progress(**{name: state[name] for name in names})
            log_bytes = state["log_bytes"]
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"the checkpoint in {self.folder.path} doesn't fit this model: {reason}"
            ) from error
        self.records.forget_after(log_bytes)
        said = f"resumed after step {self.progress.step} of {self.steps.total}"
        if state.get("total_steps", self.steps.total) != self.steps.total:
            said += (
                f" instead of {state['total_steps']}, at a learning rate of {self.steps.optimizer.rate:.2g}"
            )
        changed = [
            f"{name} {value} after {state[name]}"
            for name, value in self._where().items()
            if state.get(name, value) != value
        ]
        if changed:
            said += f", {', '.join(changed)}: results differ by rounding"
            said += " and dropout" if state.get("processes", 1) != self.processes.world else ""
        self.reporter.say(said)

    def _report(self, stepped: Stepped, seconds: float) -> None:
        progress, recent = self.progress, self.progress.recent
        progress.seconds += seconds
        new = {"loss": stepped.loss, "tokens": stepped.tokens, "steps": 1.0, "seconds": seconds}
        for name, value in new.items():
            recent[name] += value
        mean, speed = recent["loss"] / recent["steps"], recent["tokens"] / recent["seconds"]
        best = "" if progress.best is None else f"best {self.metric} {progress.best['dev'][self.metric]:.4f}"
        self.reporter.step(progress.step, mean, speed, best)
        if progress.step % self.settings.log_every == 0 or progress.step == self.steps.total:
            self.records.step(
                lambda: {
                    "step": progress.step,
                    "epoch": progress.step / self.steps.per_epoch,
                    "loss": mean,
                    "gradient_norm": stepped.norm if math.isfinite(stepped.norm) else None,
                    "learning_rate": stepped.rate,
                    "tokens_per_second": speed,
                    "seconds": progress.seconds,
                    **self._of_the_device(),
                }
            )
            progress.recent = dict.fromkeys(recent, 0.0)

    def _of_the_device(self) -> dict[str, Any]:
        """What only some devices and precisions have to tell."""
        told: dict[str, Any] = {}
        if (peak := devices.peak_memory(self.device)) is not None:
            self.progress.peak_memory = max(self.progress.peak_memory, peak)
            told["peak_memory_bytes"] = self.progress.peak_memory
        if self.steps.optimizer.scales:
            told |= {"skipped_steps": self.progress.skipped, "loss_scale": self.steps.optimizer.scale}
        return told

    def _finish(self) -> dict[str, Any]:
        if self.dev is None:
            self.records.model(self.steps.result)
        summary = {
            "task": self.task.name,
            **({"reading": self.task.reading} if self.task.reading else {}),
            "metric": self.metric,
            "best": self.progress.best,
            "steps": self.progress.step,
            "out_of_patience": self._out_of_patience,
            "epochs": self.progress.step / self.steps.per_epoch,
            "training_examples": len(self.train.examples),
            "dev_examples": None if self.dev is None else len(self.dev.examples),
            "parameters": self.steps.model.num_parameters(),
            "seconds": self.progress.seconds,
            **self._where(),
            "device": devices.describe(self.device),
            **self._of_the_device(),
        }
        self.records.curves()
        self._say_if_the_metric_stood_still()
        self.records.summary(summary)
        return summary

    def _say_if_the_metric_stood_still(self) -> None:
        if not self.processes.first:
            return
        values = [record["dev"][self.metric] for record in self.folder.records() if "dev" in record]
        if len(values) > 1 and len(set(values)) == 1:
            same = f"dev {self.metric} was {values[0]:.4f} in all {len(values)} evaluations"
            self.reporter.say(f"{same}, so the lowest loss chose the model")
