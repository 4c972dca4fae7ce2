"""Loading a model from a directory or the hub, and saving one so that transformers loads it too."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from squeezebert_fast.configuration import MODEL_TYPE
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError
from squeezebert_fast.loading.files import all_or_nothing, read_json_object
from squeezebert_fast.loading.fit import build_model
from squeezebert_fast.loading.hub import ModelFiles
from squeezebert_fast.loading.quantized import INT8_NAME, dequantized, load_quantized, read_quantized
from squeezebert_fast.loading.sizes import DeclaredConfig
from squeezebert_fast.loading.weights import NoWeightsError, read_weights
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel

Model = TypeVar("Model", bound=SqueezeBertPreTrainedModel)

CONFIG_NAME = "config.json"
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


def load_pretrained(
    cls: type[Model],
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str | None = None,
    ignore_mismatched_sizes: bool = False,
    dequantize: bool = False,
    **config_overrides: Any,
) -> Model:
    """A `cls` in eval mode with the configuration and weights of a directory or a hub repository.

    name_or_path, revision, cache_dir, local_files_only, token, subfolder: see `resolve_file`.
    dtype: of the parameters: a torch dtype or its name, None for float32 whatever the file holds (the
        published checkpoints are float16), or "auto" for the file's own.
    ignore_mismatched_sizes: initialise a head whose shape differs from the file's, rather than raise.
    dequantize: give an ordinary float model with the weights of an int8 checkpoint, rather than one patched for int8.
    config_overrides: fields of `SqueezeBertConfig` in place of those in config.json, such as `num_labels`.

    Reads safetensors or legacy `pytorch_model.bin` files, whole or in shards, as transformers 3 to 5 and
    `save_pretrained` write them; a base model's checkpoint also into a class with a head, and the other way
    round. A head that it lacks is initialised, with one warning that names it. What `save_quantized` wrote is
    read where there is nothing else, and gives a model that is patched for int8.
    Source: transformers' `PreTrainedModel.from_pretrained`.

    Raises CheckpointError (a file missing or damaged, a tensor missing or of another shape) and ConfigError
    (another model type, an invalid value or override), one line naming file and key.

    >>> SqueezeBertModel.from_pretrained("squeezebert/squeezebert-uncased")  # doctest: +SKIP
    """
    files = ModelFiles(name_or_path, revision, cache_dir, local_files_only, token, subfolder)
    config_path = files.required(CONFIG_NAME)
    declared = _read_config(config_path, config_overrides)
    pinned = files.pinned_to(config_path)
    try:
        stored = read_weights(pinned)
        config = declared.compared_with(stored)
    except NoWeightsError:
        quantized = pinned.optional(INT8_NAME)
        if quantized is None:
            raise
        stored = read_quantized(quantized)
        config = declared.compared_with(stored)
        if not dequantize:
            return load_quantized(cls, config, stored, quantized, dtype=dtype, device=device)
        stored = dequantized(stored)
    return build_model(
        cls, config, stored, dtype=dtype, device=device, ignore_mismatched_sizes=ignore_mismatched_sizes
    )


def save_pretrained(
    model: SqueezeBertPreTrainedModel, directory: str | os.PathLike[str], *, max_shard_size: int | str = "5GB"
) -> None:
    """Write config.json and model.safetensors, which `load_pretrained` and transformers read.

    directory: made with its parents. An older checkpoint in it is replaced, once all new files are written:
        a full disk or a crash before that leaves it as it was.
    max_shard_size: bytes, or a text such as "500MB"; weights beyond it are split into shards with an index.

    Tied weights are stored once. Raises CheckpointError if `directory` is a file or can't be written, and
    ArgumentError for a bad `max_shard_size`.

    >>> model.save_pretrained("my-model")  # doctest: +SKIP
    """
    directory = Path(directory).expanduser()
    state = _state_without_ties(model)
    shards = _split(state, _parse_size(max_shard_size))
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    names = [WEIGHTS_NAME]
    with all_or_nothing(directory) as stage:
        if len(shards) > 1:
            names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        for name, shard in zip(names, shards, strict=True):
            _write_safetensors(shard, stage(name))
        if len(shards) > 1:
            stage(INDEX_NAME).write_text(_index(names, shards), encoding="utf-8")
            names.append(INDEX_NAME)
        stage(CONFIG_NAME).write_text(config.to_json_string(), encoding="utf-8")
    for (
        path
    ) in directory.iterdir():  # of an older checkpoint that was split otherwise; it would be read first
        if path.name not in names and (
            path.name in (WEIGHTS_NAME, INDEX_NAME) or ANY_SHARD.fullmatch(path.name)
        ):
            path.unlink()


def _read_config(path: Path, overrides: dict[str, Any]) -> DeclaredConfig:
    data = read_json_object(path)
    model_type = data.get("model_type", MODEL_TYPE)
    if model_type != MODEL_TYPE:
        hint = "; squeezebert-fast convert turns a BERT checkpoint into one" if model_type == "bert" else ""
        raise ConfigError(f"{path} is for model_type {model_type!r}, expected {MODEL_TYPE!r}{hint}")
    return DeclaredConfig.read(data, path, overrides)


def _state_without_ties(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_meta:
            raise CheckpointError(
                f"{name} is on the meta device: the model has no weights to save, or gave them up "
                "(patch with keep_original=False)"
            )
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().contiguous()
    return state


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


def _write_safetensors(state: dict[str, Tensor], path: Path) -> None:
    mode = path.stat().st_mode
    save_file(state, path, metadata={"format": "pt"})  # transformers refuses a file without this entry
    path.chmod(mode)  # safetensors leaves it readable by the owner alone


def _index(names: list[str], shards: list[dict[str, Tensor]]) -> str:
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def _parse_size(size: int | str) -> int:
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", str(size))
    unit = BYTES_PER_UNIT.get(match.group(2).upper()) if match else None
    if match is None or unit is None or int(match.group(1)) == 0:
        raise ArgumentError(
            f"max_shard_size is {size!r}, expected a number of bytes or a text such as '500MB'"
        )
    return int(match.group(1)) * unit
