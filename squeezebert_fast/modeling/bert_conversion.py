"""From a BERT checkpoint to SqueezeBERT form: a linear layer is a pointwise convolution with one group."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from squeezebert_fast.configuration import FIELD_NAMES, GROUPED_CHANNELS
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError, one_of
from squeezebert_fast.loading.checkpoint import save_pretrained
from squeezebert_fast.loading.fit import build_model
from squeezebert_fast.loading.sizes import DeclaredConfig
from squeezebert_fast.loading.weights import StoredTensor, read_weights
from squeezebert_fast.modeling import heads
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.encoder import SqueezeBertModel
from squeezebert_fast.storage.files import CONFIG_NAME, all_or_nothing, directory_named, read_json_object
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.trained_with import ENTRY as TRAINED_WITH

logger = logging.getLogger("squeezebert_fast.loading")

COUNTERPARTS: dict[str, type[SqueezeBertPreTrainedModel]] = {
    "BertModel": SqueezeBertModel,
    "BertForPreTraining": heads.SqueezeBertForMaskedLM,
    "BertForMaskedLM": heads.SqueezeBertForMaskedLM,
    "BertForSequenceClassification": heads.SqueezeBertForSequenceClassification,
    "BertForMultipleChoice": heads.SqueezeBertForMultipleChoice,
    "BertForTokenClassification": heads.SqueezeBertForTokenClassification,
    "BertForQuestionAnswering": heads.SqueezeBertForQuestionAnswering,
}
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(\w+)")
IN_A_LAYER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "post_attention.conv1d",
    "attention.output.LayerNorm": "post_attention.layernorm",
    "intermediate.dense": "intermediate.conv1d",
    "output.dense": "output.conv1d",
    "output.LayerNorm": "output.layernorm",
}
# What SqueezeBERT's architecture can't express: the value that each setting of a BERT must have.
REQUIRED_SETTINGS: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}
LAYER_NORM_EPS = 1e-12  # of SqueezeBERT's layers, whatever its configuration says
TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def convert_bert(
    source: str | os.PathLike[str],
    *,
    model_class: type[SqueezeBertPreTrainedModel] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str | None = None,
) -> SqueezeBertPreTrainedModel:
    """The BERT model of a directory or hub repository as a SqueezeBERT with all groups 1, in eval mode.

    Its outputs are BERT's to rounding (2e-6 in float32, 4e-15 in float64 for MiniLM), except that
    `attentions` are scores before softmax. SqueezeBERT's layers always use a LayerNorm eps of 1e-12, so a
    BERT with another `layer_norm_eps` differs a little more, with one warning.

    model_class: by default the counterpart of the checkpoint's own class; `SqueezeBertModel` gives the
        encoder of any. A part that the checkpoint lacks (a masked language model has no pooler) is
        initialised, with one warning that names it.
    The rest as in `load_pretrained`.

    Raises ConfigError for what SqueezeBERT can't express (another model type, relative positions, a decoder,
    pruned heads) or a class without counterpart, and CheckpointError as `load_pretrained` does.

    >>> convert_bert("all-MiniLM-L6-v2").config.q_groups
    1
    """
    files = ModelFiles(source, revision, cache_dir, local_files_only, token, subfolder)
    return _convert(files, model_class, dtype, device)


def convert_directory(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model_class: type[SqueezeBertPreTrainedModel] | None = None,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str | None = None,
) -> SqueezeBertPreTrainedModel:
    """Convert as `convert_bert` does, and save the model with its tokenizer's files as a complete directory.

    `target` then loads with `from_pretrained` here and in transformers; tokenizer files of an older model in
    it are removed. Returns the model. The arguments are those of `convert_bert` and `save_pretrained`.

    Raises what those two raise, CheckpointError for a source without tokenizer too, and ArgumentError for a target
    that is the source.

    >>> model = convert_directory("all-MiniLM-L6-v2", "minilm-squeezebert")
    >>> SqueezeBertModel.from_pretrained("minilm-squeezebert").config.hidden_size
    384
    """
    files = ModelFiles(source, revision, cache_dir, local_files_only, token, subfolder)
    target = directory_named(target)
    if target.exists() and Path(source).expanduser().exists() and target.samefile(Path(source).expanduser()):
        raise ArgumentError(f"the target {target} is the source; converting onto it would destroy it")
    files = files.pinned_to(files.required(CONFIG_NAME))
    tokenizer = {name: path for name in TOKENIZER_FILES if (path := files.optional(name)) is not None}
    if not {"vocab.txt", "tokenizer.json"} & tokenizer.keys():
        raise CheckpointError(f"{source} has no tokenizer: neither vocab.txt nor tokenizer.json")
    model = _convert(files, model_class, dtype, None)
    save_pretrained(model, target, max_shard_size=max_shard_size)
    with all_or_nothing(target) as stage:
        for name, path in tokenizer.items():
            shutil.copyfile(path, stage(name))
    for name in set(TOKENIZER_FILES) - tokenizer.keys():
        (target / name).unlink(missing_ok=True)
    return model


def _convert(
    files: ModelFiles,
    model_class: type[SqueezeBertPreTrainedModel] | None,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
) -> SqueezeBertPreTrainedModel:
    config_path = files.required(CONFIG_NAME)
    data = read_json_object(config_path)
    declared = _converted_config(data, config_path)
    model_class = model_class or _counterpart(data, config_path)
    stored = dict(map(_converted_tensor, read_weights(files.pinned_to(config_path)).items()))
    model, _ = build_model(model_class, declared.compared_with(stored), stored, dtype=dtype, device=device)
    return model


def _converted_config(data: dict[str, Any], path: Path) -> DeclaredConfig:
    model_type = data.get("model_type", "bert")
    if model_type != "bert":
        already = " (already in SqueezeBERT form)" if model_type == "squeezebert" else ""
        raise ConfigError(f"{path} is for model_type {model_type!r}{already}, expected 'bert'")
    for name, expected in REQUIRED_SETTINGS.items():
        if (value := data.get(name)) not in (None, expected):
            raise ConfigError(
                f"{path}: {name} is {value!r}, which SqueezeBERT can't express; expected {expected!r}"
            )
    kept = (*FIELD_NAMES, "num_labels", "torch_dtype", TRAINED_WITH)
    shared = {name: data[name] for name in kept if name in data}
    declared = DeclaredConfig.read(
        {**shared, "architectures": None}, str(path), dict.fromkeys(GROUPED_CHANNELS, 1)
    )
    config = declared.config
    if config.layer_norm_eps != LAYER_NORM_EPS:
        logger.warning(
            "%s: layer_norm_eps is %g, but SqueezeBERT's layers always use %g: outputs differ a little",
            path,
            config.layer_norm_eps,
            LAYER_NORM_EPS,
        )
    return declared


def _counterpart(data: dict[str, Any], path: Path) -> type[SqueezeBertPreTrainedModel]:
    architectures = data.get("architectures") or ["BertModel"]
    for name, counterpart in COUNTERPARTS.items():
        if architectures == [name]:
            return counterpart
    raise ConfigError(
        f"{path}: architectures {architectures!r} has none here, expected {one_of(COUNTERPARTS)}; "
        "model_class=SqueezeBertModel converts the encoder alone"
    )


def _converted_tensor(item: tuple[str, StoredTensor]) -> tuple[str, StoredTensor]:
    key, entry = item
    name = key.removeprefix("bert.")
    match = LAYER.fullmatch(name)
    if match is None or match.group(2) not in IN_A_LAYER:
        return name, entry
    layer, place, leaf = match.groups()
    tensor = entry.tensor
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(-1)  # [out, in] to Conv1d's [out, in, 1]
    return f"encoder.layers.{layer}.{IN_A_LAYER[place]}.{leaf}", entry._replace(tensor=tensor)
