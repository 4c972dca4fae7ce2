"""The model that a run starts from: a checkpoint's, or a new one of given sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, TrainingError
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.storage.files import CONFIG_NAME
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.training.model_sizes import Sizes
from squeezebert_fast.training.seeds import seed_of


def load_tokenizer(name_or_path: str | Path) -> SqueezeBertTokenizerFast:
    """The tokenizer of a vocab.txt, a directory or a hub repository."""
    if Path(name_or_path).is_file():
        return SqueezeBertTokenizerFast(name_or_path)
    return SqueezeBertTokenizerFast.from_pretrained(name_or_path)


def start(
    model_class: type[SqueezeBertPreTrainedModel],
    model: str | None,
    sizes: Sizes,
    label_fields: Mapping[str, Any],
    seed: int,
    vocab: SqueezeBertTokenizerFast | None = None,
) -> tuple[SqueezeBertPreTrainedModel, SqueezeBertTokenizerFast]:
    """`load_model` where there is one, else `new_model`, with the tokenizer.

    vocab: a new model's tokenizer where `sizes` has none.
    """
    if model is not None:
        return load_model(model_class, model, label_fields, seed), load_tokenizer(model)
    tokenizer = vocab if sizes.vocab is None else load_tokenizer(sizes.vocab)
    if tokenizer is None:
        raise ArgumentError("a new model needs a vocabulary")
    return new_model(model_class, sizes, tokenizer, label_fields, seed), tokenizer


def load_model(
    model_class: type[SqueezeBertPreTrainedModel],
    name_or_path: str,
    label_fields: Mapping[str, Any],
    seed: int,
) -> SqueezeBertPreTrainedModel:
    """A checkpoint's model for these labels; a head that it lacks, or that has other labels, is initialised.

    label_fields: of the configuration. A checkpoint with the same labels keeps its own order of them.
    Raises what loading raises, and TrainingError for an int8 checkpoint.
    """
    stored = SqueezeBertConfig.from_json_file(ModelFiles(name_or_path).required(CONFIG_NAME))
    fields = dict(label_fields)
    if set(fields.get("label2id", ())) == set(stored.label2id or ()):
        fields = {name: value for name, value in fields.items() if name not in ("id2label", "label2id")}
    torch.manual_seed(seed_of(seed, "head"))
    model = model_class.from_pretrained(name_or_path, ignore_mismatched_sizes=True, **fields)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise TrainingError(
            f"{name_or_path} is an int8 checkpoint, which can't be trained; give the float one"
        )
    return model


def new_model(
    model_class: type[SqueezeBertPreTrainedModel],
    sizes: Sizes,
    tokenizer: SqueezeBertTokenizerFast,
    label_fields: Mapping[str, Any],
    seed: int,
) -> SqueezeBertPreTrainedModel:
    """A model of these sizes over the tokenizer's vocabulary, initialised at random."""
    config = SqueezeBertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **sizes.config_fields(),
        **label_fields,
    )
    torch.manual_seed(seed_of(seed, "model"))
    return model_class(config)


def check_fit(
    model: SqueezeBertPreTrainedModel, tokenizer: SqueezeBertTokenizerFast, max_length: int | None
) -> None:
    """Raise ArgumentError for a tokenizer with more tokens than the model knows, or too long inputs."""
    config = model.config
    if len(tokenizer) > config.vocab_size:
        raise ArgumentError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model's vocab_size is {config.vocab_size}"
        )
    if max_length is not None and max_length > config.max_position_embeddings:
        raise ArgumentError(
            f"max_length is {max_length}, but the model takes {config.max_position_embeddings} tokens at most"
        )
