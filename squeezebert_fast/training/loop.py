"""The training loop.

    step:  batch -> this process's share -> accumulate passes -> sum of losses / what they count -> gradient
                                                                                                      |
           AdamW, learning rate <- checked <- clipped <- summed over processes <----------------------+

The loss of a step is the sum over everything in its batch that has a label, divided by how much that is, counted
over all passes and processes. So how a batch is cut changes the result by rounding alone, also where rows have
different numbers of labels, and that is why this isn't DistributedDataParallel, which averages by process.
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
from squeezebert_fast.training.averaging import moving_average
from squeezebert_fast.training.batches import epoch_batches, share
from squeezebert_fast.training.evaluation import can_choose, evaluate
from squeezebert_fast.training.optimizing import Optimizer
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.progress import Progress
from squeezebert_fast.training.records import Records
from squeezebert_fast.training.reporting import Reporter, in_words
from squeezebert_fast.training.run_folder import RunFolder
from squeezebert_fast.training.seeds import seed_of
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.stopping import StopRequest
from squeezebert_fast.training.tasks.base import Batch, DataSet, Task

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
        self.model, self.task, self.train, self.dev = model, task, train, dev
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
        self.lengths = train.lengths
        self.steps_per_epoch = -(-len(train.rows) // settings.batch_size)
        assert settings.epochs is not None  # see Settings.filled
        self.total_steps = settings.epochs * self.steps_per_epoch
        if settings.max_steps is not None:
            self.total_steps = min(self.total_steps, settings.max_steps)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Optimizer(self.parameters, settings, self.total_steps, device)
        self.average = moving_average(model, settings.average) if settings.average else None
        self.progress = Progress()
        self.starts_trained = starts_trained
        self.records = Records(folder, processes, self.metric, own_loss=task.own_loss)
        self._epoch_batches: tuple[int, list[list[int]]] = (-1, [])

    # The run

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
                self.reporter.bar(self.total_steps, self.progress.step),
            ):
                return self._go_on(stop)
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
        return self._out_of_patience or self.progress.step >= self.total_steps

    @property
    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _epoch_ends(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def _evaluation_is_due(self) -> bool:
        step, every = self.progress.step, self.settings.evaluate_every
        if self.dev is None or step == self.progress.evaluated:
            return False
        return self._epoch_ends(step) or step == self.total_steps or (every is not None and step % every == 0)

    def _step(self, stop: StopRequest) -> None:
        started = time.perf_counter()
        parts = self._parts()
        counts = [self.task.count(batch) for batch, _ in parts]
        tokens = sum(int(batch["attention_mask"].sum()) * weight for batch, weight in parts)
        counted = sum(count * weight for count, (_, weight) in zip(counts, parts, strict=True))
        # One message decides for all processes: they must stop before the same step.
        total, all_tokens, asked_to_stop = self.processes.total([counted, tokens, stop.made])
        if asked_to_stop:
            self._save_and_stop()
        torch.manual_seed(seed_of(self.settings.seed, "dropout", self.progress.step, self.processes.rank))
        number = self.progress.step + 1
        loss, norm = self._gradients(parts, max(total, 1.0))
        if not math.isfinite(loss):
            self._diverged(f"the loss is {loss} at step {number}")
        if not math.isfinite(norm):
            if not self.optimizer.may_skip:
                scaled = f", with a loss scale of {self.optimizer.scale:.1e}" if self.optimizer.scales else ""
                self._diverged(f"the gradient is not finite at step {number}{scaled}")
            self.progress.skipped += 1
        rate = self.optimizer.rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.progress.step = number
        self._report(loss, norm, rate, all_tokens, time.perf_counter() - started)

    def _parts(self) -> list[tuple[Batch, int]]:
        """The batches that this process runs in this step, each with whether it counts.

        A batch may have fewer rows than there are processes. Who is left without one runs the first for
        nothing, so that every process has gradients of the same parameters to add up.
        """
        epoch, place = divmod(self.progress.step, self.steps_per_epoch)
        if self._epoch_batches[0] != epoch:
            batches = epoch_batches(self.lengths, self.settings.batch_size, self.settings.seed, epoch)
            self._epoch_batches = (epoch, batches)
        indices = self._epoch_batches[1][place]
        own = share(indices, self.processes.rank, self.processes.world, self.settings.accumulate)
        rows = [[self.train.rows[index] for index in part] for part in own or [indices[:1]]]
        return [(self.task.collate(part, self.pad, epoch), 1 if own else 0) for part in rows]

    def _gradients(self, parts: list[tuple[Batch, int]], total: float) -> tuple[float, float]:
        """Fill the gradients of the step's mean loss; returns that loss, and their norm before they were clipped."""
        self.model.train()
        self.optimizer.zero_grad()
        summed = torch.zeros((), dtype=torch.float64, device=self.device)
        for on_cpu, weight in parts:
            batch = devices.moved(on_cpu, self.device)
            with self.optimizer.autocast():
                output = self.task.forward(self.model, batch, hidden_states=self.task.needs_hidden_states)
            loss = self.task.loss(output, batch) * (weight / total)
            self.optimizer.backward(loss)
            summed += loss.detach()
        self.processes.add_up([p.grad for p in self.parameters if p.grad is not None])
        # The one time that the host waits for a GPU in a step.
        loss_here, norm = torch.stack([summed, self.optimizer.clip()]).tolist()
        return self.processes.total([loss_here])[0], norm

    def _diverged(self, what: str) -> None:
        raise TrainingError(
            f"{what}: stopped before it reached the parameters; {self.records.kept}. A lower learning rate may help"
        )

    # What is kept

    @property
    def result(self) -> Model:
        """The model that is evaluated and kept: the average, or else the one that is trained."""
        return self.model if self.average is None else self.average.module

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
                self.result,
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
            self.progress.best = {"step": step, "epoch": step / self.steps_per_epoch, "dev": dev}
            self.progress.evaluations_since_best = 0
            self.records.model(self.result)
        else:
            self.progress.evaluations_since_best += 1
        self.progress.seconds += time.perf_counter() - started
        epoch = step / self.steps_per_epoch
        self.reporter.say(f"step {step} of {self.total_steps}, epoch {epoch:.2f}: dev {in_words(dev)}")
        self.records.evaluation({"step": step, "epoch": epoch, "dev": dev})

    def _save(self) -> None:
        self.records.state(
            lambda: {
                **dataclasses.asdict(self.progress),
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                **self.optimizer.state(),
                "total_steps": self.total_steps,
                "device": self.device.type,
            }
        )

    def _save_and_stop(self) -> NoReturn:
        self._save()
        what_model = ""
        if self.progress.best is None:  # else the folder has the best one
            self.records.model(self.result)
            what_model = f", with that step's model in {self.folder.path}, since no evaluation has chosen one"
        self.records.curves()
        raise TrainingInterrupted(
            f"stopped after step {self.progress.step} of {self.total_steps}{what_model}; the same command with "
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
            self.model.load_state_dict(state["model"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimizer.load(state)
            before = state["device"]
            names = [each.name for each in dataclasses.fields(Progress)]
            self.progress = Progress(**{name: state[name] for name in names})
            log_bytes = state["log_bytes"]
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"the checkpoint in {self.folder.path} doesn't fit this model: {reason}"
            ) from error
        self.records.forget_after(log_bytes)
        said = f"resumed after step {self.progress.step} of {self.total_steps}"
        if state.get("total_steps", self.total_steps) != self.total_steps:
            said += f" instead of {state['total_steps']}, at a learning rate of {self.optimizer.rate:.2g}"
        if before != self.device.type:
            said += f", on {self.device} after {before}: results differ by rounding"
        self.reporter.say(said)

    def _report(self, loss: float, norm: float, rate: float, tokens: float, seconds: float) -> None:
        progress, recent = self.progress, self.progress.recent
        progress.seconds += seconds
        for name, value in (("loss", loss), ("tokens", tokens), ("steps", 1.0), ("seconds", seconds)):
            recent[name] += value
        mean, speed = recent["loss"] / recent["steps"], recent["tokens"] / recent["seconds"]
        best = "" if progress.best is None else f"best {self.metric} {progress.best['dev'][self.metric]:.4f}"
        self.reporter.step(progress.step, mean, speed, best)
        if progress.step % self.settings.log_every == 0 or progress.step == self.total_steps:
            self.records.step(
                lambda: {
                    "step": progress.step,
                    "epoch": progress.step / self.steps_per_epoch,
                    "loss": mean,
                    "gradient_norm": norm if math.isfinite(norm) else None,
                    "learning_rate": rate,
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
        if self.optimizer.scales:
            told |= {"skipped_steps": self.progress.skipped, "loss_scale": self.optimizer.scale}
        return told

    def _finish(self) -> dict[str, Any]:
        if self.dev is None:
            self.records.model(self.result)
        summary = {
            "task": self.task.name,
            **({"reading": self.task.reading} if self.task.reading else {}),
            "metric": self.metric,
            "best": self.progress.best,
            "steps": self.progress.step,
            "out_of_patience": self._out_of_patience,
            "epochs": self.progress.step / self.steps_per_epoch,
            "training_examples": len(self.train.examples),
            "dev_examples": None if self.dev is None else len(self.dev.examples),
            "parameters": self.model.num_parameters(),
            "seconds": self.progress.seconds,
            "processes": self.processes.world,
            "threads": torch.get_num_threads(),
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
