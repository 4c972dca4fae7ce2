"""Loading a model from a directory or the hub, and saving one so that transformers loads it too."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, cast

import torch
from torch import Tensor

from squeezebert_fast.configuration import MODEL_TYPE, SqueezeBertConfig, as_config
from squeezebert_fast.errors import ArgumentError, ConfigError
from squeezebert_fast.loading.fit import LoadingInfo, build_model
from squeezebert_fast.loading.int8_file import INT8_NAME, dequantized, read_quantized
from squeezebert_fast.loading.placement import single_device, spread, state_of
from squeezebert_fast.loading.shards import parse_size, remove_others, without_ties, write_weights
from squeezebert_fast.loading.sizes import DeclaredConfig
from squeezebert_fast.loading.stored_model import Model, StoredModel
from squeezebert_fast.loading.weights import NoWeightsError, StoredTensor, read_weights
from squeezebert_fast.storage.arguments import dtype_of, for_upload, without_idle
from squeezebert_fast.storage.files import CONFIG_NAME, all_or_nothing, directory_named, read_json_object
from squeezebert_fast.storage.hub import ModelFiles

QUANTIZED_MODEL = "squeezebert_fast.patching.int8_checkpoint:quantized_model"
"""What makes a model of an int8 file: it patches, which is for a layer above, so it is named and not imported."""


def load_pretrained(
    cls: type[Model],
    name_or_path: str | os.PathLike[str] | None,
    *,
    config: Any = None,
    state_dict: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: Any = None,
    max_memory: dict[Any, Any] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    offload_buffers: bool = False,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str | None = None,
    use_safetensors: bool | None = None,
    ignore_mismatched_sizes: bool = False,
    output_loading_info: bool = False,
    dequantize: bool = False,
    **config_overrides: Any,
) -> Model:
    """A `cls` in eval mode with the configuration and weights of a directory or a hub repository.

    name_or_path, revision, cache_dir, force_download, local_files_only, token, subfolder: see `resolve_file`.
    config: in place of the one beside the weights: a configuration of this package or of transformers, which stays
        as it is, or a file, directory or hub repository with one.
    state_dict: in place of the files' weights; with `config` too, `name_or_path` may be None.
    dtype: of the parameters: a torch dtype or its name, None for float32 whatever the file holds (the
        published checkpoints are float16), or "auto" for the file's own. torch_dtype is its older name.
    device_map: a device, as `device` is, or what accelerate spreads the model by: "auto", "balanced", "sequential",
        or a mapping from modules to devices, "cpu" and "disk"; max_memory, offload_folder and offload_buffers go
        with it.
    use_safetensors: True reads safetensors files alone, False `pytorch_model.bin` alone, None what there is.
    ignore_mismatched_sizes: initialise a head whose shape differs from the file's, rather than raise.
    output_loading_info: give (model, info) with a dictionary of `LoadingInfo`'s fields.
    dequantize: give an ordinary float model with the weights of an int8 checkpoint, rather than one patched for int8.
    config_overrides: fields of `SqueezeBertConfig` in place of those in config.json, such as `num_labels`. Arguments
        of transformers that can't change a result, such as low_cpu_mem_usage or trust_remote_code, do nothing
        (`storage/arguments.py` lists them).

    Reads safetensors or legacy `pytorch_model.bin` files, whole or in shards, as transformers 3 to 5 and
    `save_pretrained` write them; a base model's checkpoint also into a class with a head, and the other way
    round. A head that it lacks is initialised, with one warning that names it. What `save_quantized` wrote is
    read where there is nothing else, and gives a model that is patched for int8.
    Source: transformers' `PreTrainedModel.from_pretrained`.

    Raises CheckpointError (a file missing or damaged, a tensor missing or of another shape), ConfigError (another
    model type, an invalid value or override) and ArgumentError, one line naming file and key.

    >>> SqueezeBertModel.from_pretrained(SENTIMENT_MODEL, dequantize=True).config.num_hidden_layers
    5
    """
    overrides, token = without_idle(config_overrides, token)
    dtype = dtype_of(dtype, torch_dtype)
    if device is not None and device_map is not None:
        raise ArgumentError(f"device is {device!r} and device_map {device_map!r}, expected one of the two")
    place = single_device(device_map) if device is None else device
    to_spread = device_map is not None and place is None
    if name_or_path is None and (config is None or state_dict is None):
        raise ArgumentError("the model's name is None, expected one unless config and state_dict are given")
    find = functools.partial(
        ModelFiles,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        subfolder=subfolder,
        force_download=force_download,
    )
    declared, files = _declared(config, find(name_or_path or ""), find, overrides)
    stored, quantized = _stored(files, state_dict, use_safetensors)
    checked = declared.compared_with(stored)
    info = LoadingInfo()
    if quantized is not None and not dequantize:
        if to_spread and device_map != "auto":
            raise ArgumentError(f"device_map is {device_map!r}; an int8 checkpoint runs on the CPU alone")
        quantized_model = resolve_name(QUANTIZED_MODEL)
        model = quantized_model(cls, checked, stored, quantized, dtype=dtype, device=place)
    else:
        stored = stored if quantized is None else dequantized(stored)
        model, info = build_model(
            cls, checked, stored, dtype=dtype, device=place, ignore_mismatched_sizes=ignore_mismatched_sizes
        )
        if to_spread:
            spread(model, device_map, max_memory, offload_folder, offload_buffers)
    model.name_or_path = model.config.name_or_path = os.fspath(name_or_path or "")
    return cast(Model, (model, vars(info))) if output_loading_info else model


def _declared(
    config: Any, files: ModelFiles, find: Callable[..., ModelFiles], overrides: dict[str, Any]
) -> tuple[DeclaredConfig, ModelFiles]:
    """The configuration to load by, and the model's files, of one commit where the configuration is among them."""
    if config is not None and not isinstance(config, (str, os.PathLike)):
        return DeclaredConfig.read(as_config(config).to_dict(), "the config given", overrides), files
    path = files.required(CONFIG_NAME) if config is None else find(config).file_or(CONFIG_NAME)
    data = read_json_object(path)
    model_type = data.get("model_type", MODEL_TYPE)
    if model_type != MODEL_TYPE:
        hint = "; squeezebert-fast convert turns a BERT checkpoint into one" if model_type == "bert" else ""
        raise ConfigError(f"{path} is for model_type {model_type!r}, expected {MODEL_TYPE!r}{hint}")
    declared = DeclaredConfig.read(data, str(path), overrides)
    return declared, files.pinned_to(path) if config is None else files


def _stored(
    files: ModelFiles, state_dict: Mapping[str, Tensor] | None, use_safetensors: bool | None
) -> tuple[dict[str, StoredTensor], Path | None]:
    """A checkpoint's tensors, and the int8 file if they are from one."""
    if not isinstance(use_safetensors, (bool, NoneType)):
        raise ArgumentError(f"use_safetensors is {use_safetensors!r}, expected one of True, False, None")
    if state_dict is not None:
        if not isinstance(state_dict, Mapping) or not all(isinstance(t, Tensor) for t in state_dict.values()):
            raise ArgumentError("state_dict is not a mapping from names to tensors")
        given = Path("state_dict")
        return {key: StoredTensor(tensor, given, key) for key, tensor in state_dict.items()}, None
    try:
        return read_weights(files, use_safetensors), None
    except NoWeightsError:
        quantized = None if use_safetensors is False else files.optional(INT8_NAME)
        if quantized is None:
            raise
        return read_quantized(quantized), quantized


def save_pretrained(
    model: StoredModel,
    directory: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    state_dict: Mapping[str, Tensor] | None = None,
    is_main_process: bool = True,
    push_to_hub: bool = False,
    repo_id: str | None = None,
    **options: Any,
) -> None:
    """Write config.json and model.safetensors, which `load_pretrained` and transformers read.

    directory: made with its parents. An older checkpoint in it is replaced, once all new files are written:
        a full disk or a crash before that leaves it as it was.
    max_shard_size: bytes, or a text such as "500MB"; weights beyond it are split into shards with an index.
    state_dict: to write in place of the model's own.
    is_main_process: False writes nothing.
    push_to_hub: upload the same to `repo_id`, by default the repository of the directory's name; options are those
        of `squeezebert_fast.storage.upload.upload`. Other arguments of transformers do nothing, or are refused
        (`storage/arguments.py` lists them).

    Tied weights are stored once; those that accelerate has offloaded are fetched. Raises CheckpointError if
    `directory` is a file or can't be written, and ArgumentError for a bad argument.

    >>> SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=1)).save_pretrained("my-model")
    """
    options = for_upload(options)
    limit = parse_size(max_shard_size)
    if not is_main_process:
        return
    directory = directory_named(directory)
    state = without_ties(state_of(model) if state_dict is None else state_dict)
    config = saved_config(model)
    with all_or_nothing(directory) as stage:
        names = write_weights(state, limit, stage)
        stage(CONFIG_NAME).write_text(config.to_json_string(), encoding="utf-8")
    remove_others(directory, names)
    if push_to_hub:
        name = repo_id or directory.resolve().name
        model.push_to_hub(name, max_shard_size=max_shard_size, state_dict=state_dict, **options)


def saved_config(model: StoredModel) -> SqueezeBertConfig:
    """The configuration that is saved with a model: its own, with its class and dtype."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    return config
