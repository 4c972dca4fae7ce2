"""What a model was trained with, as far as whoever uses it needs the same: an entry of its config.json.

    "squeezebert_fast": {"task": "classification", "column": "premise", "pair_column": "hypothesis", "max_length": 64}

It stands there, and not in a file of its own, because every library writes back what it doesn't know of a
configuration: so it comes along through `save_pretrained`, `quantize`, `average`, `convert` and the hub.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeezebert_fast.errors import ConfigError

ENTRY = "squeezebert_fast"

DEFAULT_LENGTH = 128
"""Tokens at which training cuts inputs where nobody says it."""

DEFAULT_STRIDE = 64
"""Tokens by which the windows of a long text overlap where nobody says it."""


@dataclass(frozen=True, kw_only=True)
class TrainedWith:
    """The options of `finetune` or `distill` that a model was trained with; None for what isn't known or has none.

    task: by its name. column, pair_column, label_column: of a table. choice_columns: of a multiple choice, joined by
    commas as the option is. max_length: tokens at which inputs were cut. stride: of a question's windows. metric: that
    chose the best model.
    """

    task: str | None = None
    column: str | None = None
    pair_column: str | None = None
    choice_columns: str | None = None
    label_column: str | None = None
    max_length: int | None = None
    stride: int | None = None
    metric: str | None = None

    @classmethod
    def of_config(cls, config: Mapping[str, Any], where: str = "the configuration") -> TrainedWith:
        """What the content of a config.json says; of a model that something else trained, nothing.

        where: the file, for errors. Names that another version of this package wrote are passed over.
        Raises ConfigError for a value that can't be one.
        """
        entry = config.get(ENTRY, {})
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where}: {ENTRY} is {entry!r}, expected a JSON object")
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        known = {name: entry[name] for name in fields if entry.get(name) is not None}
        for name, value in known.items():
            number = fields[name] == "int | None"
            if number and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ConfigError(f"{where}: {ENTRY}.{name} is {value!r}, expected a number of tokens")
            if not number and not isinstance(value, str):
                raise ConfigError(f"{where}: {ENTRY}.{name} is {value!r}, expected a text")
        return cls(**known)

    @classmethod
    def of_model(cls, name_or_path: str | os.PathLike[str]) -> TrainedWith:
        """What the model of a directory or hub name was trained with, known before anything heavy is loaded.

        Raises CheckpointError for a name of no model, and ConfigError as `of_config` does.
        """
        from squeezebert_fast.storage.files import CONFIG_NAME, read_json_object
        from squeezebert_fast.storage.hub import (
            ModelFiles,
        )  # a tenth of a second, and every command imports this file

        path = ModelFiles(name_or_path).optional(CONFIG_NAME)
        return cls() if path is None else cls.of_config(read_json_object(path), str(path))

    def for_task(self, task: str) -> TrainedWith:
        """This, for a model that goes on with the same task; for one that begins another, nothing."""
        return self if self.task == task else TrainedWith()

    def in_common(self, other: TrainedWith) -> TrainedWith:
        """What holds for both."""
        ours, theirs = vars(self), vars(other)
        return TrainedWith(**{name: value for name, value in ours.items() if theirs[name] == value})

    def keep_in(self, config: Any) -> None:
        """Make it an entry of a model's configuration, this package's or transformers', to be saved with it."""
        entry = {name: value for name, value in vars(self).items() if value is not None}
        if entry:
            setattr(config, ENTRY, entry)
        elif hasattr(config, ENTRY):
            delattr(config, ENTRY)
