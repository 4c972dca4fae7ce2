"""What a model's weights are written as: safetensors files of a bounded size, and an index where there are several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from squeezebert_fast.errors import ArgumentError, CheckpointError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
ANY_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
BYTES_PER_UNIT = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def without_ties(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `state_dict`, those that share their memory under their first name only.

    Raises CheckpointError for one that has no values, or that torch has quantized.
    """
    state: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size, torch.dtype]] = set()
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor) or tensor.is_quantized:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{name} is a {kind}: save the model before torch quantizes it")
        if tensor.is_meta:
            raise CheckpointError(
                f"{name} is on the meta device: the model has no weights to save, or gave them up "
                "(patch with keep_original=False)"
            )
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if key not in seen:
            seen.add(key)
            state[name] = tensor.detach().contiguous()
    return state


def write_weights(state: dict[str, Tensor], limit: int, stage: Callable[[str], Path]) -> list[str]:
    """Write tensors into files of at most `limit` bytes each, at the paths that `stage` gives for names.

    Returns the names, of which the index is the last where there are several files.
    """
    shards = _split(state, limit)
    names = [WEIGHTS_NAME]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        path = stage(name)
        mode = path.stat().st_mode
        save_file(shard, path, metadata={"format": "pt"})  # transformers refuses a file without this entry
        path.chmod(mode)  # safetensors leaves it readable by the owner alone
    if len(shards) > 1:
        stage(INDEX_NAME).write_text(_index(names, shards), encoding="utf-8")
        names.append(INDEX_NAME)
    return names


def remove_others(directory: Path, names: Collection[str]) -> None:
    """Remove the weights of an older checkpoint that was split otherwise: they would be read first."""
    for path in directory.iterdir():
        ours = path.name in (WEIGHTS_NAME, INDEX_NAME) or ANY_SHARD.fullmatch(path.name)
        if ours and path.name not in names:
            path.unlink()


def _split(state: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Consecutive tensors of at most `limit` bytes in all, a larger one on its own."""
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in state.items():
        if shards[-1] and used + tensor.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    return shards


def _index(names: list[str], shards: list[dict[str, Tensor]]) -> str:
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def parse_size(size: int | str) -> int:
    """The bytes of `max_shard_size`. Raises ArgumentError."""
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", str(size))
    unit = BYTES_PER_UNIT.get(match.group(2).upper()) if match else None
    if match is None or unit is None or int(match.group(1)) == 0:
        raise ArgumentError(
            f"max_shard_size is {size!r}, expected a number of bytes or a text such as '500MB'"
        )
    return int(match.group(1)) * unit
