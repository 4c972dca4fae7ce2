"""The model that a run starts from: a checkpoint's, or a new one of given sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.loading.transformers_models import token_limit
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.pretrained import OWN_PREFIX, Model, Tokenizer, find
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.trained_with import DEFAULT_LENGTH
from squeezebert_fast.training.labels import in_order
from squeezebert_fast.training.model_sizes import Sizes
from squeezebert_fast.training.seeds import seed_of
from squeezebert_fast.training.tasks.base import Task


def load_tokenizer(name_or_path: str | Path) -> SqueezeBertTokenizerFast:
    """The tokenizer that a new model is to have, of a vocab.txt, a directory or a hub repository."""
    if Path(name_or_path).is_file():
        return SqueezeBertTokenizerFast(name_or_path)
    return SqueezeBertTokenizerFast.from_pretrained(name_or_path)


def known_labels(task: Task, model: str | None) -> list[str]:
    """The labels, by id, of a checkpoint that has the task's head already; of another one none."""
    stored = None if model is None else find(model)
    head = task.model_class.__name__.removeprefix(OWN_PREFIX)
    if stored is None or not (stored.architecture or "").endswith(head):
        return []
    return in_order(stored.config().id2label)


def start(
    task: Task,
    model: str | None,
    sizes: Sizes,
    label_fields: Mapping[str, Any],
    seed: int,
    vocab: SqueezeBertTokenizerFast | None = None,
) -> tuple[Model, Tokenizer]:
    """The model that a task begins with, of a checkpoint or new, and its tokenizer.

    label_fields: of the configuration. vocab: a new model's tokenizer where `sizes` has none.
    Raises what loading raises, and TrainingError for an int8 checkpoint.
    """
    if model is not None:
        stored = find(model)
        tokenizer = stored.tokenizer(of_words=task.reads_words)
        torch.manual_seed(seed_of(seed, "head"))
        return stored.load_to_train(task.model_class, label_fields), tokenizer
    chosen = vocab if sizes.vocab is None else load_tokenizer(sizes.vocab)
    if chosen is None:
        raise ArgumentError("a new model needs a vocabulary")
    return new_model(task.model_class, sizes, chosen, label_fields, seed), chosen


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


def check_fit(model: Model, tokenizer: Tokenizer, max_length: int | None) -> None:
    """Raise ArgumentError for a tokenizer with more tokens than the model knows, or too long inputs."""
    config, limit = model.config, token_limit(model.config)
    if len(tokenizer) > config.vocab_size:
        raise ArgumentError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model's vocab_size is {config.vocab_size}"
        )
    if max_length is not None and max_length > limit:
        raise ArgumentError(f"max_length is {max_length}, but the model takes {limit} tokens at most")


def cut_at(model: Model, max_length: int | None, usual_length: int | None) -> int:
    """Tokens at which a model's inputs are cut: `max_length`, or what is usual, if the model takes as many.

    usual_length: what its model or teacher was trained with; DEFAULT_LENGTH where there is none.
    """
    return max_length or min(usual_length or DEFAULT_LENGTH, token_limit(model.config))
