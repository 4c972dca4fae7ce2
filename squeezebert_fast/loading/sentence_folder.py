"""What a sentence-transformers folder says: where its transformer is, and what makes vectors of its tokens.

    modules.json                    the modules, in their order: a class and a folder each
    sentence_bert_config.json       beside the transformer: how long texts may be
    N_Pooling/config.json           how tokens become a vector
    config_sentence_transformers.json   prompts

A transformer, pooling by mean or first token and perhaps a normalisation are simple enough to be run without
sentence-transformers; whatever else there is (other poolings, dense layers, ...) is that library's.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from squeezebert_fast.errors import CheckpointError, UnsupportedError
from squeezebert_fast.loading.prompts import Prompts
from squeezebert_fast.loading.transformers_models import library, refused_in_one_line
from squeezebert_fast.loading.weights import weight_files
from squeezebert_fast.storage.files import all_or_nothing, read_json, read_json_object
from squeezebert_fast.storage.hub import ModelFiles

MODULES_NAME = "modules.json"
CONFIG_NAME = "config_sentence_transformers.json"
MODULE_FILES = ("config.json", *weight_files())
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)
PATH = re.compile(r"(\w[\w.-]*(/\w[\w.-]*)*)?")
# What a simple folder's files may say, by field. Of some fields any value is fine, of others one of these.
TRANSFORMER_FIELDS: dict[str, tuple[object, ...] | None] = {
    "max_seq_length": None,
    "do_lower_case": (False, None),
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
}
NORMALIZE_FIELDS = dict.fromkeys(("module_input_name", "module_output_name"), ("sentence_embedding",))
POOLING_FIELDS: dict[str, tuple[object, ...] | None] = {
    "embedding_dimension": None,
    "word_embedding_dimension": None,
    "include_prompt": (True,),
}
LEGACY_POOLING = "pooling_mode_"
POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence-transformers folder, on this machine or on the hub.

    files: its own. transformer: those of its transformer. others: the places of its other modules. beyond: what of it
    only sentence-transformers can do, in words; None for a simple one, of which the rest is true. pooling: "mean" or
    "cls". max_length: in tokens.
    """

    files: ModelFiles
    transformer: ModelFiles
    others: tuple[str, ...]
    beyond: str | None = None
    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    prompts: Prompts = field(default_factory=Prompts)


def read(files: ModelFiles) -> SentenceFolder | None:
    """The folder or repository, or None for one that is none of sentence-transformers'.

    Raises CheckpointError for a damaged file, and for a module that would run code of the folder's own.
    """
    path = files.optional(MODULES_NAME)
    if path is None:
        return None
    files = files.pinned_to(path)
    modules = [_module(entry, path) for entry in _list(read_json(path), path)]
    kinds = [kind for kind, _ in modules]
    if not modules or kinds[0] != "Transformer":
        raise CheckpointError(
            f"{path} begins with a {kinds[0] if kinds else 'nothing'}, expected a Transformer"
        )
    places = [place for _, place in modules]
    transformer = dataclasses.replace(files, subfolder=places[0] or None)
    others = tuple(places[1:])
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return SentenceFolder(files, transformer, others, f"its modules are {', '.join(kinds)}")
    config = next(
        (_fields(transformer, name) for name in TRANSFORMER_CONFIGS if transformer.optional(name)), {}
    )
    pooling = _fields(dataclasses.replace(files, subfolder=places[1]), "config.json")
    legacy = [name for name in pooling if name.startswith(LEGACY_POOLING)]
    modes = [name.removeprefix(LEGACY_POOLING) for name in legacy if pooling.pop(name)]
    said = pooling.pop("pooling_mode", modes or "mean")
    mode = said[0] if isinstance(said, list) and len(said) == 1 else said
    beyond = _other(config, TRANSFORMER_FIELDS, "transformer") or _other(pooling, POOLING_FIELDS, "pooling")
    if len(modules) == 3:
        normalize = _fields(dataclasses.replace(files, subfolder=places[2]), "config.json")
        beyond = beyond or _other(normalize, NORMALIZE_FIELDS, "normalisation")
    pooled = POOLINGS.get(mode) if isinstance(mode, str) else None
    if pooled is None:
        beyond = beyond or f"its pooling is {mode}"
    length = config.get("max_seq_length")
    if beyond is not None or not isinstance(length, (int, type(None))):
        return SentenceFolder(files, transformer, others, beyond or f"its max_seq_length is {length!r}")
    prompts = Prompts.of_config(_fields(files, CONFIG_NAME), f"{files.name_or_path}/{CONFIG_NAME}")
    return SentenceFolder(
        files,
        transformer,
        others,
        None,
        pooled or "",
        len(modules) == 3,
        length,
        prompts,
    )


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, expected a list of modules")
    return value


def _module(entry: Any, path: Path) -> tuple[str, str]:
    """The class's name of a module and the folder that it is in."""
    kind, place = (entry.get(name) if isinstance(entry, dict) else None for name in ("type", "path"))
    if not isinstance(kind, str) or not isinstance(place, str) or not PATH.fullmatch(place):
        raise CheckpointError(
            f"{path}: a module is {entry!r}, expected one with a type and a path in the folder"
        )
    if not kind.startswith("sentence_transformers."):
        raise CheckpointError(f"{path}: a module is a {kind}, which is code of its own and isn't run")
    return kind.rpartition(".")[2], place


def _fields(files: ModelFiles, name: str) -> dict[str, Any]:
    path = files.optional(name)
    return {} if path is None else read_json_object(path)


def _other(
    fields: Mapping[str, Any], known: Mapping[str, tuple[object, ...] | None], what: str
) -> str | None:
    """What isn't simple in a module's fields, or None."""
    for name, value in fields.items():
        if name not in known or ((allowed := known[name]) is not None and value not in allowed):
            return f"{name} of its {what} is {value!r}"
    return None


# With the library


def sentence_transformer(folder: SentenceFolder) -> Any:
    """The folder as a SentenceTransformer on the CPU. Raises UnsupportedError without the library, CheckpointError."""
    name = folder.files.name_or_path
    try:
        sentence_transformers: Any = importlib.import_module("sentence_transformers")
    except ImportError as error:
        why = folder.beyond or "it is to be a SentenceTransformer"
        raise UnsupportedError(
            f"{name} needs sentence-transformers ({error}), since {why}; "
            "pip install squeezebert-fast[sentence-transformers]"
        ) from error
    with refused_in_one_line(f"load {name}"):
        local = os.path.expanduser(name)
        return sentence_transformers.SentenceTransformer(
            local if os.path.isdir(local) else os.fspath(name), device="cpu", revision=folder.files.revision
        )


def is_sentence_transformer(model: nn.Module) -> bool:
    """Whether it is one, which needs no import to say."""
    loaded = sys.modules.get("sentence_transformers")
    return loaded is not None and isinstance(model, loaded.SentenceTransformer)


def transformer_of(model: Any) -> nn.Module:
    """transformers' model in a SentenceTransformer, which has had several names for it."""
    return model[0].auto_model


def save(model: Any, directory: Path, save_transformer: Callable[[nn.Module, Path], None]) -> None:
    """Write all of a SentenceTransformer but its transformer's weights, which `save_transformer` writes."""
    with tempfile.TemporaryDirectory() as made:
        with refused_in_one_line("save it"):
            model.save(made)
        folder = read(ModelFiles(made))
        assert folder is not None  # as it was just written
        inside = folder.transformer.subfolder or ""
        for name in (*weight_files(), "config.json"):
            (Path(made) / inside / name).unlink(missing_ok=True)
        save_transformer(transformer_of(model), directory / inside)
        shutil.copytree(made, directory, dirs_exist_ok=True)


def copy_around(folder: SentenceFolder, target: Path) -> None:
    """Copy into `target` what a folder has beside its transformer: modules, how long texts may be, prompts.

    Raises StorageError where that can't be written.
    """
    inside = folder.transformer.subfolder or ""
    names = [MODULES_NAME, CONFIG_NAME, *(os.path.join(inside, name) for name in TRANSFORMER_CONFIGS)]
    names += [os.path.join(place, name) for place in folder.others for name in MODULE_FILES]
    for name in names:
        if (path := folder.files.optional(name)) is not None:
            with all_or_nothing((target / name).parent) as stage:
                shutil.copyfile(path, stage((target / name).name))


def load(folder: SentenceFolder, load_transformer: Callable[[ModelFiles], nn.Module]) -> Any:
    """A SentenceTransformer whose transformer is what `load_transformer` makes of its files."""
    with _in_place_of_auto_model(lambda: load_transformer(folder.transformer)):
        return sentence_transformer(folder)


@contextmanager
def _in_place_of_auto_model(make: Callable[[], nn.Module]) -> Iterator[None]:
    """sentence-transformers has no argument for a model that is there: this is where it gets one, in all versions."""
    transformers = library("to load it")
    transformers.AutoModel.from_pretrained = lambda *args, **kwargs: make()
    try:
        yield
    finally:
        del transformers.AutoModel.from_pretrained  # which its base class has
