"""What every model class shares: configuration, initialisation, tying, resizing, saving."""

from __future__ import annotations

import os
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.modeling.resizing import resize_token_embeddings

Model = TypeVar("Model", bound="SqueezeBertPreTrainedModel")


class SqueezeBertPreTrainedModel(nn.Module):
    """Base class of the models. Subclasses build their modules from `config` and then call `init_weights`.

    `_tied_weights_keys` maps the name of each tied parameter to that of the parameter it shares.
    """

    config_class = SqueezeBertConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _tied_weights_keys: ClassVar[dict[str, str]] = {}

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        if not isinstance(config, SqueezeBertConfig):
            raise ArgumentError(
                f"config is a {type(config).__module__}.{type(config).__name__}, expected this package's "
                "SqueezeBertConfig (SqueezeBertConfig.from_dict makes one)"
            )
        config.validate()
        self.config = config

    @classmethod
    def from_pretrained(cls: type[Model], name_or_path: str | os.PathLike[str], **kwargs: Any) -> Model:
        """Load a model: see `squeezebert_fast.loading.checkpoint.load_pretrained`."""
        from squeezebert_fast.loading.checkpoint import load_pretrained

        return load_pretrained(cls, name_or_path, **kwargs)

    def save_pretrained(self, directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save this model: see `squeezebert_fast.loading.checkpoint.save_pretrained`."""
        from squeezebert_fast.loading.checkpoint import save_pretrained

        save_pretrained(self, directory, **kwargs)

    @property
    def base_model(self) -> Any:
        """The bare `SqueezeBertModel`: this model itself, or the one under its head."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return next(self.parameters()).device

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the parameters hold, tied ones counted once."""
        embeddings = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if (parameter.requires_grad or not only_trainable)
            and not (exclude_embeddings and id(parameter) in embeddings)
        )

    # Initialisation and tying

    def init_weights(self) -> None:
        """Initialise every module as transformers does, and tie what is tied."""
        for module in self.modules():
            self._init_weights(module)
        self.tie_weights()

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

    def tie_weights(self) -> None:
        """Share the parameters that `_tied_weights_keys` lists, if `config.tie_word_embeddings`."""
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
        return resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of, mean_resizing)

    # Gradient checkpointing

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Recompute each layer in the backward pass instead of keeping its activations, in training mode.

        gradient_checkpointing_kwargs: for `torch.utils.checkpoint.checkpoint`, by default `{"use_reentrant":
        False}`.
        """
        encoder = self.base_model.encoder
        encoder.gradient_checkpointing = True
        encoder.gradient_checkpointing_kwargs = {
            "use_reentrant": False,
            **(gradient_checkpointing_kwargs or {}),
        }

    def gradient_checkpointing_disable(self) -> None:
        """Keep every layer's activations again."""
        self.base_model.encoder.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is enabled."""
        return self.base_model.encoder.gradient_checkpointing
