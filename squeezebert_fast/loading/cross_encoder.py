"""What the folder of a CrossEncoder, sentence-transformers' class for pairs of texts, says of its texts and scores.

config_sentence_transformers.json   model_type "CrossEncoder", activation_fn and prompts, since version 6
config.json                         sentence_transformers.activation_fn, in versions 4 and 5
                                    sbert_ce_default_activation_function, before
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.loading.prompts import Prompts
from squeezebert_fast.loading.sentence_folder import CONFIG_NAME
from squeezebert_fast.storage.files import CONFIG_NAME as MODEL_CONFIG
from squeezebert_fast.storage.files import read_json_object
from squeezebert_fast.storage.hub import ModelFiles

KIND = "CrossEncoder"
IDENTITY: Callable[[Tensor], Tensor] = nn.Identity()
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": IDENTITY,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}


def activation(files: ModelFiles, *, trained_since: bool) -> Callable[[Tensor], Tensor] | None:
    """What makes scores of a CrossEncoder's logits, or None for a folder that doesn't say that it is one.

    trained_since: by this package, on logits, though the configuration may still name an activation: None too.
    Raises UnsupportedError for a function that isn't of ACTIVATIONS, CheckpointError for a damaged file.
    """
    if trained_since:
        return None
    about, config = _read(files, CONFIG_NAME), _read(files, MODEL_CONFIG)
    said = about.get("activation_fn") if about.get("model_type") == KIND else None
    inside = config.get("sentence_transformers")
    said = said or (inside.get("activation_fn") if isinstance(inside, dict) else None)
    said = said or config.get("sbert_ce_default_activation_function")
    if said is None:
        return None
    name = str(said).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise UnsupportedError(
            f"{files.name_or_path} is a CrossEncoder with the activation {said!r}, expected one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def prompts(files: ModelFiles) -> Prompts:
    """What a text, or the first of a pair, may begin with: nothing in a folder that isn't said to be a CrossEncoder's.

    Raises CheckpointError for a damaged file.
    """
    about = _read(files, CONFIG_NAME)
    is_one = about.get("model_type") == KIND
    return Prompts.of_config(about, f"{files.name_or_path}/{CONFIG_NAME}") if is_one else Prompts()


def _read(files: ModelFiles, name: str) -> Mapping[str, Any]:
    path = files.optional(name)
    return {} if path is None else read_json_object(path)
