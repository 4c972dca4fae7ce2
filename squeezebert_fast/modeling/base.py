"""What every model class shares: configuration, initialisation, tying, embeddings, saving."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from squeezebert_fast.configuration import SqueezeBertConfig, as_config
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from squeezebert_fast.modeling.interface import TransformersInterface
from squeezebert_fast.modeling.resizing import resize_rows
from squeezebert_fast.storage.arguments import for_upload
from squeezebert_fast.storage.upload import upload

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

Model = TypeVar("Model", bound="SqueezeBertPreTrainedModel")


class SqueezeBertPreTrainedModel(TransformersInterface):
    """Base class of the models. Subclasses build their modules from `config` and then call `init_weights`.

    Source: transformers' `PreTrainedModel`, whose methods and state_dict names it has.

    >>> model = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)
    >>> model.save_pretrained("my-model")
    >>> SqueezeBertForSequenceClassification.from_pretrained("my-model").config.id2label
    {0: 'negative', 1: 'positive'}
    """

    config_class = SqueezeBertConfig

    def __init__(self, config: SqueezeBertConfig) -> None:
        """config: this package's, or one with `to_dict`, such as transformers', of which this model gets a copy.

        Raises ArgumentError for anything else, ConfigError for one that makes no model. Subclasses build from
        `self.config`.
        """
        super().__init__()
        self.config = as_config(config)
        self.config.validate()
        self.name_or_path = self.config.name_or_path

    @classmethod
    def from_pretrained(
        cls: type[Model], pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> Model:
        """Load a model: see `squeezebert_fast.loading.checkpoint.load_pretrained`."""
        return load_pretrained(cls, pretrained_model_name_or_path, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save this model: see `squeezebert_fast.loading.checkpoint.save_pretrained`."""
        save_pretrained(self, save_directory, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        max_shard_size: int | str = "5GB",
        state_dict: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Save this model, and upload it to a repository of the hub, made if need be.

        max_shard_size, state_dict: of `squeezebert_fast.loading.checkpoint.save_pretrained`. options: of
        `squeezebert_fast.storage.upload.upload`. Raises CheckpointError and ArgumentError.
        """

        def save(folder: Path) -> None:
            save_pretrained(self, folder, max_shard_size=max_shard_size, state_dict=state_dict)

        return upload(save, repo_id, **for_upload(options))

    # Initialisation and tying

    def init_weights(self) -> None:
        """Initialise every module as transformers does, and tie what is tied."""
        for module in self.modules():
            self._init_weights(module)
        self.tie_weights()

    def post_init(self) -> None:
        """`init_weights` by the name that a subclass of transformers' models calls it by."""
        self.init_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Weights from N(0, initializer_range), biases and the padding row 0, LayerNorm the identity."""
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.weight.normal_(0.0, self.config.initializer_range)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, self.config.initializer_range)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()

    def tie_weights(self, missing_keys: Any = None, recompute_mapping: bool = True) -> None:
        """Share the parameters that `_tied_weights_keys` lists, if `config.tie_word_embeddings`.

        missing_keys, recompute_mapping: of transformers' loading; they do nothing here.
        """
        if not self.config.tie_word_embeddings:
            return
        for name, source in self._tied_weights_keys.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, self.get_parameter(source))

    # Embeddings

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings' module."""
        return self.base_model.get_input_embeddings()

    def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
        """Replace the word embeddings' module; `tie_weights` ties the decoder to it."""
        self.base_model.set_input_embeddings(new_embeddings)

    def get_output_embeddings(self) -> nn.Linear | None:
        """The masked-language-model decoder, or None where the model has none."""
        return None

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the masked-language-model decoder. Raises UnsupportedError where the model has none."""
        raise UnsupportedError(f"{type(self).__name__} has no output embeddings, use SqueezeBertForMaskedLM")

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Change the vocabulary's size in the embeddings, the decoder and its bias, keeping the common rows.

        new_num_tokens: by default the present number; rounded up to a multiple of `pad_to_multiple_of`.
        mean_resizing: new rows start at the mean of the old ones with a trace of their spread, as
        transformers does, so that a new token is no more likely than an average one; otherwise from N(0,
        initializer_range).
        Returns the embeddings' module, the same object as before. Raises ArgumentError for sizes that aren't
        positive.
        """
        embeddings = self.get_input_embeddings()
        for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ArgumentError(f"{name} is {value!r}, expected a positive integer or None")
        size = embeddings.num_embeddings if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        deviation = self.config.initializer_range
        resize_rows(embeddings, size, mean_resizing, deviation)
        embeddings.num_embeddings = size
        if embeddings.padding_idx is not None and embeddings.padding_idx >= size:
            embeddings.padding_idx = self.config.pad_token_id = None
        decoder = self.get_output_embeddings()
        if decoder is not None:
            # Tied, it is about to get the embeddings' weight, and transformers gives new words a bias of 0.
            resize_rows(decoder, size, mean_resizing and not self.config.tie_word_embeddings, deviation)
            decoder.out_features = size
            self.set_output_embeddings(decoder)
        self.config.vocab_size = size
        self.tie_weights()
        return embeddings
