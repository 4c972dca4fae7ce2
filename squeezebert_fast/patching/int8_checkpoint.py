"""A model's int8 form: made from a model's weights, and from such a file a model that is patched for int8.

`squeezebert_fast/loading/int8_file.py` has the file. Which of a model's parameters are int8 in it, and in how many
blocks, is as `patch` has them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from squeezebert_fast.backends import quantized
from squeezebert_fast.configuration import MODEL_TYPE
from squeezebert_fast.errors import ArgumentError, CheckpointError
from squeezebert_fast.loading import sentence_folder, transformers_models
from squeezebert_fast.loading.fit import skeleton, usable_device
from squeezebert_fast.loading.int8_file import INT8_NAME, SCALE, read_quantized, write_quantized
from squeezebert_fast.loading.stored_model import PREFIX, StoredModel
from squeezebert_fast.loading.weights import StoredTensor, weight_files
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.stored_heads import stored_class
from squeezebert_fast.patching.engines import layer_of
from squeezebert_fast.patching.families import dense_layers, family_of
from squeezebert_fast.patching.linear import FEW_CHANNELS
from squeezebert_fast.patching.patch import patch
from squeezebert_fast.storage.files import CONFIG_NAME, directory_named, read_json_object
from squeezebert_fast.storage.hub import ModelFiles

Model = TypeVar("Model", bound=nn.Module)


def save_quantized(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write config.json and model_int8.safetensors, which `load_quantized` loads as a model patched for int8.

    model: of this package, of transformers' BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT or ELECTRA, or a
        SentenceTransformer of one, which is saved whole; in float32, patched or not, with its original weights.
    directory: made with its parents; files of the same names in it are replaced once the new ones are whole.

    Raises ArgumentError for a model of another kind or dtype, CheckpointError if weights were given up
    (`patch(..., keep_original=False)`), a layer was replaced, or `directory` can't be written or holds weights that
    would be read in place of these.

    >>> model = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)
    >>> squeezebert_fast.save_quantized(model, "my-model-int8")
    >>> squeezebert_fast.load_quantized("my-model-int8").config.id2label
    {0: 'negative', 1: 'positive'}
    """
    directory = directory_named(directory)
    if sentence_folder.is_sentence_transformer(model):
        sentence_folder.save(model, directory, save_quantized)
        return
    if not isinstance(model, SqueezeBertPreTrainedModel) and not transformers_models.is_whole(model):
        raise ArgumentError(
            f"model is a {type(model).__name__}, expected a model of this package, or of transformers with "
            f"model_type {', '.join(transformers_models.PREFIXES)}"
        )
    first = next((name for name in weight_files() if os.path.exists(directory / name)), None)
    if first is not None:
        raise CheckpointError(
            f"{directory} holds a float model, {first}, which is read first; give another directory"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    whole = skeleton(type(model), model.config)
    lacking = [name for name, _ in whole.named_parameters(remove_duplicate=False) if name not in parameters]
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
    config: Any = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    write_quantized(directory, state, config)


def load_quantized(name_or_path: str | os.PathLike[str]) -> Any:
    """The model of a directory or hub repository that `save_quantized` wrote, ready to run, never float on the way.

    Returns a model of the class that was saved, patched with precision int8 and keep_original=False; a
    SentenceTransformer, which takes sentence-transformers, where that was saved.
    Raises CheckpointError, naming file and key, for a damaged file or one of another model, ConfigError for a
    configuration of none, UnsupportedError where the native module or the model's library is missing.

    >>> model = squeezebert_fast.load_quantized(SENTIMENT_MODEL)
    >>> squeezebert_fast.explain(model).rows[0].precision
    'int8'
    """
    files = ModelFiles(name_or_path)
    if (folder := sentence_folder.read(files)) is not None:
        return sentence_folder.load(folder, load_transformer)
    return load_transformer(files)


def load_transformer(files: ModelFiles) -> Any:
    """`load_quantized` of a model's own files, which may be a part of a sentence-transformers folder."""
    config_path = files.required(CONFIG_NAME)
    files = files.pinned_to(config_path)
    data = read_json_object(config_path)
    model_type = data.get("model_type", MODEL_TYPE)
    path = files.required(INT8_NAME)
    if model_type == MODEL_TYPE:
        return stored_class(files).from_pretrained(
            files.name_or_path, revision=files.revision, subfolder=files.subfolder
        )
    name = (data.get("architectures") or [None])[0]
    cls: Any = transformers_models.class_named(name, model_type, config_path)
    config = transformers_models.read_config(cls, config_path)
    stored = read_quantized(path)
    if config.num_hidden_layers > len(stored):  # thousands of layers would take long to build, also as shapes
        raise CheckpointError(
            f"num_hidden_layers is {config.num_hidden_layers} in {config_path}, but {path} holds {len(stored)} tensors"
        )
    with transformers_models.refused_in_one_line(f"load {files.name_or_path}"):
        model = skeleton(cls, config)
    return filled(model, stored, path)


def quantized_model(
    cls: type[Model],
    config: Any,
    entries: Mapping[str, StoredTensor],
    path: Path,
    **options: Any,
) -> Model:
    """A `cls` patched with precision int8 and keep_original=False, from the tensors of `read_quantized(path)`.

    options: of `load_pretrained`; those that would need float weights must have their defaults. Raises
    as `filled` does, and ArgumentError for an option.
    """
    if options.get("dtype") not in (None, torch.float32, "float32", "auto"):
        raise ArgumentError(f"dtype is {options['dtype']!r}; an int8 checkpoint can't be loaded as another")
    if usable_device(options.get("device")).type != "cpu":
        raise ArgumentError(f"device is {options['device']!r}; an int8 checkpoint runs on the CPU alone")
    return filled(skeleton(cls, config), entries, path)


def filled(model: Model, entries: Mapping[str, StoredTensor], path: Path) -> Model:
    """A `skeleton` with the tensors of `read_quantized(path)`, patched with precision int8 and keep_original=False.

    Raises CheckpointError, naming file and key, for a file of another model, UnsupportedError where the native module
    is missing.
    """
    stored = {key: entry.tensor for key, entry in entries.items()}
    to_quantize = _to_quantize(model)
    values_of: dict[int, nn.Parameter] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    keys_of = {name: _keys(model, name) for name, _ in named}
    for name, parameter in named:
        if id(parameter) in values_of:
            continue
        key = next((key for key in keys_of[name] if key in stored), None)
        if key is None:
            if any(other is parameter and not stored.keys().isdisjoint(keys_of[n]) for n, other in named):
                continue  # tied to one that is there
            raise CheckpointError(f"{path} lacks {keys_of[name][-1]}")
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
            values_of[id(parameter)] = parameter
        else:
            values_of[id(parameter)] = nn.Parameter(values.clone(), requires_grad=False)
    for module in model.modules():
        for name, held in module._parameters.items():
            if held is not None:
                module._parameters[name] = values_of[id(held)]
    return patch(model.eval(), precision="int8", keep_original=False)


def _keys(model: nn.Module, name: str) -> tuple[str, ...]:
    """The keys that a parameter may have in a file: of this package's models, with a head or without."""
    if not isinstance(model, StoredModel):
        return (name,)
    bare = name.removeprefix(PREFIX)
    if bare.partition(".")[0] not in {part for part, _ in model.base_model.named_children()}:
        return (name,)
    return (PREFIX + bare, bare) if model.base_model is model else (bare, PREFIX + bare)


def _to_quantize(model: nn.Module) -> dict[int, int]:
    """The parameters that are int8 on disk, by identity, and the blocks of their rows."""
    dense = [linear for module in model.modules() for linear in dense_layers(module)]
    in_int8 = [linear for linear in dense if linear.out_features >= FEW_CHANNELS]
    words = [module for name, module in model.named_modules() if name.endswith("word_embeddings")]
    blocks = {id(module.weight): 1 for module in (*words, *in_int8)}
    for (
        linear
    ) in model.modules():  # a product that runs in float needs its weight, also one tied to the words
        if isinstance(linear, nn.Linear) and linear not in in_int8:
            blocks.pop(id(linear.weight), None)
    for module in model.modules():  # after those: BERT's products are nn.Linear too
        if (family := family_of(type(module))) is not None:
            convs = (conv for layer in family.layers_of(module) for conv in layer_of(layer, family).convs)
            blocks |= {id(conv.weight): conv.blocks for conv in convs}
    return blocks
