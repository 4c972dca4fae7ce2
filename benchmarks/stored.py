"""A model in a folder, as a table of trained models shows it: loaded and patched for one precision, and its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from squeezebert_fast import patch
from squeezebert_fast.cli.task_options import TaskOptions, task_of
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.pretrained import find
from squeezebert_fast.training.tasks.base import Task

FILES = ("config.json", "model.safetensors", "model_int8.safetensors", "vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class Stored:
    """One model in one precision. folder: what is loaded; precision: None for the model as PyTorch runs it."""

    name: str
    folder: Path
    precision: str | None = "float32"
    dequantize: bool = False

    def task(self) -> Task:
        """What it was trained for; of a table, with the usual names of the columns."""
        return task_of(find(self.folder), TaskOptions())

    def load(self) -> SqueezeBertPreTrainedModel:
        """The model in eval mode, patched with `unpad` unless `precision` is None."""
        model = self.task().model_class.from_pretrained(self.folder, dequantize=self.dequantize)
        is_patched = any(parameter.is_meta for parameter in model.parameters())
        if self.precision is None or is_patched:
            return model
        return patch(model, precision=self.precision, unpad=True, strict=True)

    @property
    def megabytes(self) -> float | None:
        """What is on disk: weights, configuration and tokenizer; None for a form that is never stored."""
        if self.dequantize or (self.precision == "int8" and (self.folder / "model.safetensors").exists()):
            return None
        paths = [self.folder / name for name in FILES]
        return sum(path.stat().st_size for path in paths if path.exists()) / 1e6
