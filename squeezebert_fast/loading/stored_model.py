"""What loading and saving ask of a model. They know no other class; `modeling` has the models."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from squeezebert_fast.configuration import SqueezeBertConfig

PREFIX = "transformer."
"""What the names of a body's tensors begin with in a checkpoint of a model with a head."""


class StoredModel(nn.Module):
    """A model that is built from a configuration alone: a body, and perhaps a head on it.

    `_tied_weights_keys` maps the name of each tied parameter to that of the parameter it shares.
    """

    base_model_prefix = PREFIX.removesuffix(".")
    _tied_weights_keys: ClassVar[dict[str, str]] = {}
    _no_split_modules: ClassVar[list[str]] = []
    config: SqueezeBertConfig
    name_or_path: str
    hf_device_map: dict[str, Any]  # of a model that accelerate has spread, and of no other

    @property
    def base_model(self) -> Any:
        """The body: this model itself, or the one under its head."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter."""
        return next(self.parameters()).dtype

    def _init_weights(self, module: nn.Module) -> None:
        """Give a module's own parameters the values that training starts from."""
        raise NotImplementedError

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Save this model, and upload it."""
        raise NotImplementedError


Model = TypeVar("Model", bound=StoredModel)
