"""What a training run leaves on disk, so that a kill at any moment loses nothing but the steps since a checkpoint.

run.json               the settings, to resume with the same
training_state.pt      parameters, optimizer, schedule, step: one file, replaced in one rename
log.jsonl, curves.png  a line every few steps and for each evaluation
metrics.json           the summary, once the run is finished
.lock                  held while a process writes here
config.json, model.safetensors, the tokenizer's files    the best model so far: the folder loads as one
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from squeezebert_fast.errors import CheckpointError, TrainingError
from squeezebert_fast.pretrained import Model, Tokenizer, save, save_tokenizer
from squeezebert_fast.storage.files import (
    CONFIG_NAME,
    all_or_nothing,
    read_json_object,
    remove_half_written,
    writing,
)
from squeezebert_fast.storage.lock import alone_in, holds_files

RUN = "run.json"
STATE = "training_state.pt"
LOG = "log.jsonl"
CURVES = "curves.png"
SUMMARY = "metrics.json"
MODEL_FILES = (CONFIG_NAME, "model.safetensors")
LENGTHS = ("epochs", "max_steps", "patience")
"""The settings that say how long a run goes on. A finished one may go on for longer."""


class RunFolder:
    """The output folder `path` of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves = path / CURVES

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out while the block runs. Raises the errors of `alone_in`."""
        return alone_in(self.path)

    def check(self, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Raise TrainingError where a run with these settings can't begin, or go on, and change nothing.

        That is: a folder that holds files, with neither flag, or files but no run, with `resume`; a run with other
        settings, but for a finished one that is only to be longer.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"the output {self.path} is a file, expected a folder")
        if resume and overwrite:
            raise TrainingError("--resume and --overwrite exclude each other")
        if resume and not self.holds_run and holds_files(self.path):
            raise TrainingError(
                f"{self.path} holds no run to resume, but files; --overwrite in place of --resume starts one there"
            )
        if not (resume or overwrite) and holds_files(self.path):
            what, way = ("a run", "--resume continues it, ") if self.holds_run else ("files", "")
            raise TrainingError(f"the output {self.path} holds {what} already; {way}--overwrite starts anew")
        if resume and self.holds_run:
            self._check_same(settings)

    def begin(self, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready for a new run with these settings, or with `resume` for the one in it to go on, if any.

        Raises TrainingError as `check` does, StorageError if it can't be written.
        """
        self.check(settings, resume=resume, overwrite=overwrite)
        remove_half_written(self.path)
        if not (resume and self.holds_run):
            for name in (RUN, STATE, LOG, CURVES, *MODEL_FILES):  # RUN first: no half of two runs
                self._remove(name)
        self._write_json(RUN, settings)
        self._remove(SUMMARY)  # last: a longer run is in RUN before it isn't finished any more

    @property
    def has_state(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.path / STATE).is_file()

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / RUN).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run here came to its end."""
        return (self.path / SUMMARY).is_file()

    def _check_same(self, settings: Mapping[str, Any]) -> None:
        begun = read_json_object(self.path / RUN)
        other = {name: value for name, value in settings.items() if begun.get(name) != value}
        for name, value in other.items():
            may_be_longer = name in LENGTHS and self.is_finished
            if may_be_longer and self._is_longer(name, value, begun.get(name)):
                continue
            way = "the same or more" if may_be_longer else "the same"
            raise TrainingError(
                f"{name.replace('_', '-')} is {_short(value)}, but the run in {self.path} was begun with "
                f"{_short(begun.get(name))}; resume with {way}, or start anew with --overwrite"
            )
        if other and "patience" not in other and self.summary().get("out_of_patience"):
            raise TrainingError(
                f"the run in {self.path} ended before its last step, by its patience of {begun['patience']}; "
                "it goes on with a larger --patience"
            )

    def _is_longer(self, name: str, value: int | None, begun: int | None) -> bool:
        """Whether this value of one of LENGTHS lets the finished run go on for longer than the one it was begun with.

        None is without end; of epochs it is the usual number, which the summary of a run tells.
        """
        if name == "epochs":
            return value is not None and value > (begun or self.summary()["epochs"])
        return begun is not None and (value is None or value > begun)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint by `state`, of tensors and plain values, in one rename. Raises StorageError."""
        with all_or_nothing(self.path) as stage, stage(STATE).open("wb") as stream:
            try:
                torch.save(dict(state), stream)
            except (
                RuntimeError
            ) as error:  # over the stream's, which says why, and says of itself nothing but places
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_state(self) -> dict[str, Any] | None:
        """The checkpoint, or None if the run was stopped before its first. Raises CheckpointError if damaged."""
        path = self.path / STATE
        if not self.has_state:
            return None
        try:
            with path.open("rb") as stream:
                state = torch.load(stream, map_location="cpu", weights_only=True)
        except PermissionError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
        except Exception as error:  # a damaged zip or pickle fails in whatever its bytes happen to lead to
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise CheckpointError(f"{path} is not a whole checkpoint of a run: {reason}") from error
        if not isinstance(state, dict) or "step" not in state:
            raise CheckpointError(f"{path} is not a checkpoint of a run")
        return state

    def save_model(self, model: Model) -> None:
        """Make `model` the folder's model."""
        save(model, self.path)

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Write the tokenizer's files."""
        save_tokenizer(tokenizer, self.path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log, or raise StorageError and leave it as it was."""
        before, path = self.log_bytes, self.path / LOG
        with writing(path):
            try:
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(record) + "\n")
            except OSError:
                self.cut_log(before)
                raise

    @property
    def log_bytes(self) -> int:
        """How long the log is."""
        path = self.path / LOG
        return path.stat().st_size if path.exists() else 0

    def cut_log(self, size: int) -> None:
        """Forget what was logged after a checkpoint: the steps since are run and logged again."""
        if self.log_bytes > size:
            with (self.path / LOG).open("r+b") as stream:
                stream.truncate(size)

    def records(self) -> list[dict[str, Any]]:
        """The log so far."""
        path = self.path / LOG
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        self._write_json(SUMMARY, summary)

    def summary(self) -> dict[str, Any]:
        """What `write_summary` wrote."""
        return read_json_object(self.path / SUMMARY)

    def _remove(self, name: str) -> None:
        with writing(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        with all_or_nothing(self.path) as stage:
            stage(name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
