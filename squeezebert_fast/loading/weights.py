"""Reading a checkpoint's tensors from its files: safetensors or legacy PyTorch ones, whole or in shards."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.storage.files import read_json_object
from squeezebert_fast.storage.hub import ModelFiles

SHARD_NAME = re.compile(r"\w[\w.-]*")
ZIP_MAGIC = b"PK\x03\x04"  # what torch.save has written since 1.6; only such a file can be memory-mapped


class NoWeightsError(CheckpointError):
    """None of the files that hold weights is there."""


class StoredTensor(NamedTuple):
    """A tensor of a checkpoint, mapped from its file rather than read: it must be copied, never kept."""

    tensor: Tensor
    file: Path
    key: str

    @property
    def place(self) -> str:
        return f"{self.key} of {self.file}"


def read_weights(files: ModelFiles, use_safetensors: bool | None = None) -> dict[str, StoredTensor]:
    """All tensors of a model's checkpoint by their key in it.

    use_safetensors: whether to look for safetensors files alone, or for the others alone; None for both.
    The first that exists of `model.safetensors`, its shards, `pytorch_model.bin` (unpickled with
    `weights_only`, which runs no code of the file), its shards. Raises CheckpointError, naming file and key,
    if there is none, or if one is missing, damaged, or disagrees with its index.
    """
    readers = READERS
    if use_safetensors is not None:
        readers = {n: r for n, r in READERS.items() if n.endswith(".safetensors") == use_safetensors}
    for name, read in readers.items():
        single = files.optional(name)
        if single is not None:
            return {key: StoredTensor(tensor, single, key) for key, tensor in read(single).items()}
        index = files.optional(f"{name}.index.json")
        if index is not None:
            return _read_shards(files, index, read)
    looked_for = ", ".join(f"{name} or {name}.index.json" for name in readers)
    raise NoWeightsError(f"{files.name_or_path} has no weights: none of {looked_for}")


def weight_files() -> list[str]:
    """The names that `read_weights` looks for, in its order."""
    return [f"{name}{end}" for name in READERS for end in ("", ".index.json")]


def _read_shards(
    files: ModelFiles, index: Path, read: Callable[[Path], dict[str, Tensor]]
) -> dict[str, StoredTensor]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is missing or not a mapping from keys to file names")
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not SHARD_NAME.fullmatch(shard):  # an index from elsewhere must not lead out of its directory
            raise CheckpointError(f"{index}: the shard {shard!r} is not a plain file name")
        path = files.optional(shard)
        if path is None:
            raise CheckpointError(
                f"{index} lists the shard {shard}, but {files.name_or_path} has no such file"
            )
        tensors = read(path)
        for key, tensor in tensors.items():
            listed = weight_map.get(key)
            if listed != shard:
                where = f"lists it in {listed}" if listed else "doesn't list it"
                raise CheckpointError(f"{path} holds {key}, but {index.name} {where}")
            stored[key] = StoredTensor(tensor, path, key)
    for key, shard in weight_map.items():
        if key not in stored:
            raise CheckpointError(f"{index} lists {key} in {shard}, but that file doesn't hold it")
    return stored


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            mmap = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, and unpickling that could run code: refused"
        ) from error
    except Exception as error:  # a damaged zip or pickle fails in whatever its bytes happen to lead to
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path} is not a whole PyTorch checkpoint: {reason}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a dict of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {key!r} holds a {type(value).__name__}, expected a tensor")
    return dict(state)


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "model.safetensors": _read_safetensors,
    "pytorch_model.bin": _read_pickled,
}
