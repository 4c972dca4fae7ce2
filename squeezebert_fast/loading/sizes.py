"""The sizes that a config.json asks for, compared with the tensors beside it before anything is built.

A damaged or hostile file of a few bytes could otherwise ask for a billion layers, which fill the memory long before
a tensor is missed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from squeezebert_fast.configuration import SqueezeBertConfig, refuse_typo, unnamed_labels
from squeezebert_fast.errors import CheckpointError, ConfigError
from squeezebert_fast.loading.stored_model import PREFIX
from squeezebert_fast.loading.weights import StoredTensor

LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
CLASSIFIER = "classifier.weight"
LABEL_FIELDS = frozenset({"num_labels", "id2label", "label2id"})
# Where the file shows each size: tensors that have it, any of which will do, and the axis.
SHOWN_BY: dict[str, tuple[tuple[str, ...], int]] = {
    "vocab_size": (("embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"), 0),
    "hidden_size": (("embeddings.position_embeddings.weight",), 1),
    "max_position_embeddings": (("embeddings.position_embeddings.weight",), 0),
    "type_vocab_size": (("embeddings.token_type_embeddings.weight",), 0),
    "intermediate_size": (("encoder.layers.0.intermediate.conv1d.bias",), 0),
}


class DeclaredConfig(NamedTuple):
    """A configuration that is valid in itself, whose sizes are still to be compared with a checkpoint.

    place: where it was read, for errors. overrides: the fields that the caller gave in place of those there.
    num_labels: how many labels it asks for without naming them; names are made once the number is believed.
    """

    config: SqueezeBertConfig
    place: str
    overrides: Mapping[str, Any]
    num_labels: int | None = None

    @classmethod
    def read(cls, data: dict[str, Any], place: str, overrides: Mapping[str, Any]) -> DeclaredConfig:
        """Of a config.json's content. Raises ConfigError, naming the place, also for an override of no field."""
        unnamed = unnamed_labels(data)
        if unnamed is not None:
            data = {name: value for name, value in data.items() if name != "num_labels"}
        try:
            for name in overrides:
                refuse_typo(name, unknown=name not in data)
            config = SqueezeBertConfig.from_dict(data, **overrides)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        return cls(config, place, overrides, None if LABEL_FIELDS & overrides.keys() else unnamed)

    def compared_with(self, stored: Mapping[str, StoredTensor]) -> SqueezeBertConfig:
        """The configuration, if a model of it is no larger than the checkpoint `stored`.

        A smaller number of layers is the caller's choice. Sizes that differ only a little in a head are left to
        the comparison of shapes, which knows whether the head may be initialised. Raises CheckpointError that
        names both sizes and both files.
        """
        _check_memory(stored)
        found = {key.removeprefix(PREFIX): entry for key, entry in stored.items()}
        files = _files(stored)
        for name, (keys, axis) in SHOWN_BY.items():
            if name == "intermediate_size" and self.config.num_hidden_layers == 0:
                continue
            entry = next((found[key] for key in keys if key in found), None)
            if entry is None:
                raise CheckpointError(f"{files} lacks the model's {keys[0]}")
            shape = list(entry.tensor.shape)
            if len(shape) <= axis or shape[axis] != getattr(self.config, name):
                raise self._too_large(name, getattr(self.config, name), f"{entry.place} has shape {shape}")
        layers = len({match.group(1) for key in found if (match := LAYER.match(key))})
        if self.config.num_hidden_layers > layers:
            raise self._too_large(
                "num_hidden_layers", self.config.num_hidden_layers, f"{files} holds {layers} layers"
            )
        self._check_labels(found)
        if self.num_labels is not None:
            self.config.num_labels = self.num_labels
        return self.config

    def _check_labels(self, found: Mapping[str, StoredTensor]) -> None:
        """A head that the file lacks may be initialised, but not with more weights than all the file holds."""
        number = self.config.num_labels if self.num_labels is None else self.num_labels
        total = sum(entry.tensor.numel() for entry in found.values())
        if number * self.config.hidden_size > total and not LABEL_FIELDS & self.overrides.keys():
            classifier = found.get(CLASSIFIER)
            holds = f"{_files(found)} holds {total} weights in all"
            if classifier is not None:
                holds = f"{classifier.place} has shape {list(classifier.tensor.shape)}"
            raise self._too_large("num_labels", number, holds)

    def _too_large(self, name: str, value: int, holds: str) -> CheckpointError:
        place = "an argument" if name in self.overrides else self.place
        return CheckpointError(f"{name} is {value} in {place}, but {holds}")


def _check_memory(stored: Mapping[str, StoredTensor]) -> None:
    """A pickled tensor may claim any shape over a few bytes, by a stride of 0."""
    for entry in stored.values():
        tensor = entry.tensor
        if tensor.layout is torch.strided and tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{entry.place} has shape {list(tensor.shape)}, but the file holds "
                f"{tensor.untyped_storage().nbytes()} bytes of it"
            )


def _files(stored: Mapping[str, StoredTensor]) -> str:
    files = sorted({str(entry.file) for entry in stored.values()}) or ["the checkpoint"]
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
