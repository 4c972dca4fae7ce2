"""A model's int8 form: made from a model's weights, and from such a file a model that is patched for int8.

`squeezebert_fast/loading/int8_file.py` has the file. Which of a model's parameters are int8 in it, and in how many
blocks, is as `patch` has them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.backends import quantized
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, CheckpointError
from squeezebert_fast.loading.fit import skeleton, usable_device
from squeezebert_fast.loading.int8_file import SCALE, write_quantized
from squeezebert_fast.loading.stored_model import PREFIX, Model
from squeezebert_fast.loading.weights import StoredTensor, weight_files
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.patching.engines import layer_of
from squeezebert_fast.patching.families import family_of
from squeezebert_fast.patching.linear import FEW_CHANNELS
from squeezebert_fast.patching.patch import patch
from squeezebert_fast.storage.files import directory_named


def save_quantized(model: SqueezeBertPreTrainedModel, directory: str | os.PathLike[str]) -> None:
    """Write config.json and model_int8.safetensors, which `from_pretrained` loads as a model patched for int8.

    model: in float32, patched or not, with its original weights. directory: made with its parents; files of the
    same names in it are replaced once the new ones are whole.

    Raises ArgumentError for a model of another kind or dtype, CheckpointError if weights were given up
    (`patch(..., keep_original=False)`), a layer was replaced, or `directory` can't be written or holds weights that
    would be read in place of these.

    >>> squeezebert_fast.save_quantized(model, "my-model-int8")  # doctest: +SKIP
    """
    if not isinstance(model, SqueezeBertPreTrainedModel):
        raise ArgumentError(f"model is a {type(model).__name__}, expected a model of this package")
    directory = directory_named(directory)
    first = next((name for name in weight_files() if os.path.exists(directory / name)), None)
    if first is not None:
        raise CheckpointError(
            f"{directory} holds a float model, {first}, which is read first; give another directory"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    lacking = [name for name in skeleton(type(model), model.config).state_dict() if name not in parameters]
    if lacking:
        raise CheckpointError(f"the model has no parameter {lacking[0]}: a layer of it was replaced")
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    to_quantize = _to_quantize(model)
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise CheckpointError(f"{name} has no values: they were given up, or never loaded")
        if parameter.dtype is not torch.float32:
            raise ArgumentError(f"{name} is {parameter.dtype}, expected torch.float32")
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if id(parameter) in to_quantize:
            state[name], state[name + SCALE] = quantized.quantize(parameter.cpu(), to_quantize[id(parameter)])
            if state[name + SCALE].isnan().any():
                raise CheckpointError(f"{name} holds NaN or infinite weights, which have no int8 form")
        else:
            state[name] = parameter.detach().cpu().contiguous()
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    write_quantized(directory, state, config)


def load_quantized(
    cls: type[Model],
    config: SqueezeBertConfig,
    entries: Mapping[str, StoredTensor],
    path: Path,
    **options: Any,
) -> Model:
    """A `cls` patched with precision int8 and keep_original=False, from the tensors of `read_quantized(path)`.

    options: of `load_pretrained`; those that would need float weights must have their defaults. Raises
    CheckpointError, naming file and key, for a file of another model, ArgumentError for an
    option, UnsupportedError where the native module is missing.
    """
    if options.get("dtype") not in (None, torch.float32, "float32", "auto"):
        raise ArgumentError(f"dtype is {options['dtype']!r}; an int8 checkpoint can't be loaded as another")
    if usable_device(options.get("device")).type != "cpu":
        raise ArgumentError(f"device is {options['device']!r}; an int8 checkpoint runs on the CPU alone")
    stored = {key: entry.tensor for key, entry in entries.items()}
    model = skeleton(cls, config)
    to_quantize = _to_quantize(model)
    filled: dict[int, nn.Parameter] = {}
    prefix = "" if model.base_model is model else PREFIX
    body = {name for name, _ in model.base_model.named_children()}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) in filled:
            continue
        bare = name.removeprefix(PREFIX)
        keys = (bare, PREFIX + bare) if bare.partition(".")[0] in body else (name,)
        key = next((key for key in keys if key in stored), None)
        if key is None:
            if any(
                other is parameter and n in stored
                for n, other in model.named_parameters(remove_duplicate=False)
            ):
                continue  # tied to one that is there
            raise CheckpointError(f"{path} lacks {prefix + bare if keys[0] == bare else name}")
        values = stored[key]
        wanted = torch.int8 if id(parameter) in to_quantize else torch.float32
        if values.shape != parameter.shape or values.dtype is not wanted:
            raise CheckpointError(
                f"{key} of {path} is {values.dtype} {list(values.shape)}, the model's is {wanted} "
                f"{list(parameter.shape)}"
            )
        parameter.requires_grad_(False)
        if wanted is torch.int8:
            scale = stored.get(key + SCALE)
            shape = [values.shape[0], to_quantize[id(parameter)]]
            if scale is None or scale.dtype is not torch.float32 or list(scale.shape) != shape:
                raise CheckpointError(f"{path}: {key + SCALE} is missing or not float32 {shape}")
            quantized.stand_in(parameter, values.contiguous(), scale.contiguous())
            filled[id(parameter)] = parameter
        else:
            filled[id(parameter)] = nn.Parameter(values.clone(), requires_grad=False)
    for module in model.modules():
        for name, held in module._parameters.items():
            if held is not None:
                module._parameters[name] = filled[id(held)]
    return patch(model.eval(), precision="int8", keep_original=False)


def _to_quantize(model: nn.Module) -> dict[int, int]:
    """The parameters that are int8 on disk, by identity, and the blocks of their rows."""
    blocks: dict[int, int] = {}
    for name, module in model.named_modules():
        if name.endswith("word_embeddings") or (
            isinstance(module, nn.Linear) and module.out_features >= FEW_CHANNELS
        ):
            blocks[id(module.weight)] = 1
    for module in model.modules():  # after those: BERT's products are nn.Linear too
        if (family := family_of(type(module))) is not None:
            convs = (conv for layer in family.layers_of(module) for conv in layer_of(layer, family).convs)
            blocks |= {id(conv.weight): conv.blocks for conv in convs}
    return blocks
