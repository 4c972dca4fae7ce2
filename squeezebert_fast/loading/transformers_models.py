"""transformers' models of the families that `patch` knows: loaded by transformers, refused in this package's errors.

transformers is optional, and is imported by the first call that needs it. Its classes are taken by name, never by the
code that a folder may bring along.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from squeezebert_fast.configuration import MODEL_TYPE
from squeezebert_fast.errors import (
    CheckpointError,
    ConfigError,
    SqueezeBertFastError,
    UnsupportedError,
    one_of,
)
from squeezebert_fast.storage.hub import ModelFiles

PREFIXES = {
    "bert": "Bert",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
}
"""What the names of a model type's classes begin with; behind it they are those of SqueezeBERT's classes."""

POSITIONS_AFTER_PADDING = ("camembert", "roberta", "xlm-roberta")
"""The model types whose positions count from `pad_token_id` + 1."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
"""Of which a tokenizer has one at least. Without, transformers would make up a tokenizer of no words."""


def library(wanted_by: str) -> Any:
    """transformers. Raises UnsupportedError, which says what wanted it, where it can't be imported."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UnsupportedError(
            f"transformers is needed {wanted_by} ({error}); pip install squeezebert-fast[transformers]"
        ) from error


def check_model_type(model_type: object, path: Path) -> None:
    """Raise ConfigError, naming the configuration's file, for a model type of no family."""
    if model_type not in PREFIXES:
        raise ConfigError(
            f"{path} is for model_type {model_type!r}, expected {one_of((MODEL_TYPE, *PREFIXES))}"
        )


def class_named(name: object, model_type: str, path: Path) -> type[nn.Module]:
    """transformers' class of that name. Raises ConfigError, naming the configuration's file, for another's name."""
    check_model_type(model_type, path)
    prefix = PREFIXES[model_type]
    of_family = isinstance(name, str) and name.removeprefix(prefix).startswith(("Model", "For"))
    found = (
        getattr(library(f"to load {path}"), str(name), None)
        if of_family and str(name).startswith(prefix)
        else None
    )
    if not isinstance(found, type):
        raise ConfigError(f"{path} names the class {name!r}, which transformers lacks for {model_type!r}")
    return found


def is_whole(model: nn.Module) -> bool:
    """Whether a model's class is transformers' own, of one of the model types in PREFIXES."""
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    home = f"transformers.models.{str(model_type).replace('-', '_')}.modeling_"
    return model_type in PREFIXES and type(model).__module__.startswith(home)


def token_limit(config: Any) -> int:
    """The tokens that a model takes at most."""
    if getattr(config, "model_type", None) in POSITIONS_AFTER_PADDING:
        return config.max_position_embeddings - (config.pad_token_id or 0) - 1
    return config.max_position_embeddings


def read_config(cls: Any, path: Path, fields: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a class in a config.json, with other values of some fields. Raises CheckpointError."""
    with refused_in_one_line(f"load {path}"):
        config = cls.config_class.from_pretrained(os.fspath(path))
        for name, value in (fields or {}).items():
            setattr(config, name, value)
        return config


def from_pretrained(
    cls: Any, files: ModelFiles, config: Any, state_dict: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, list[str]]:
    """A float32 model of a class in eval mode, and the names of the parameters that were initialised at random.

    files: at the commit that `config` came from. state_dict: in place of their weights.
    Raises CheckpointError, one line, for whatever transformers refuses, and for a checkpoint without an encoder.
    """
    place = None if state_dict is not None else _place(files)
    options = {} if place is None else {"revision": files.revision, "subfolder": files.subfolder or ""}
    with refused_in_one_line(f"load {files.name_or_path}"):
        model, info = cls.from_pretrained(
            place,
            config=config,
            state_dict=state_dict,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **{name: value for name, value in options.items() if value is not None},
        )
    # transformers 4 gives the name alone, 5 the shapes too.
    mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    missing = {*info["missing_keys"], *mismatched}
    body = f"{model.base_model_prefix}."
    for name in sorted(missing):
        if (model.base_model is model or name.startswith(body)) and ".pooler." not in f".{name}":
            raise CheckpointError(
                f"{files.name_or_path} lacks the model's {name}, or has it in another shape"
            )
    return model.float().eval(), sorted(missing)


def load_tokenizer(files: ModelFiles, config: Any, *, of_words: bool = False) -> Any:
    """The tokenizer beside a model. Raises CheckpointError where there is none, or transformers refuses it.

    of_words: whether it is to be given texts that are cut into words.
    """
    if all(files.optional(name) is None for name in TOKENIZER_FILES):
        raise CheckpointError(f"{files.name_or_path} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
    # GPT-2's byte pairs, which RoBERTa's are, know a word by the space before it
    options: dict[str, Any] = (
        {"add_prefix_space": True} if of_words and config.model_type == "roberta" else {}
    )
    with refused_in_one_line(f"load the tokenizer of {files.name_or_path}"):
        tokenizer = library("to load it").AutoTokenizer.from_pretrained(
            _place(files),
            revision=files.revision or "main",
            subfolder=files.subfolder or "",
            trust_remote_code=False,  # else transformers asks on the terminal
            **options,
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{files.name_or_path} has no tokenizer.json, which fast tokenizers are made of"
        )
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True  # as said already
    return tokenizer


@contextmanager
def refused_in_one_line(what: str) -> Iterator[None]:
    """Whatever transformers raises in the block, which is to do `what`, as a CheckpointError.

    What it logs and draws meanwhile goes nowhere. Raises UnsupportedError without transformers.
    """
    logging = library(f"to {what}").utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    except SqueezeBertFastError:
        raise
    except Exception as error:  # transformers has no common base for what can be wrong with a checkpoint
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"transformers can't {what}: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _place(files: ModelFiles) -> str:
    """What transformers takes for the model's name: a directory here, if there is one, is never taken for a hub id."""
    local = os.path.expanduser(files.name_or_path)
    return os.path.abspath(local) if os.path.isdir(local) else os.fspath(files.name_or_path)
