"""Changing the size of the vocabulary that a model has embeddings, a decoder and its bias for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from squeezebert_fast.errors import ArgumentError

if TYPE_CHECKING:
    from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel


def resize_token_embeddings(
    model: SqueezeBertPreTrainedModel,
    new_num_tokens: int | None,
    pad_to_multiple_of: int | None,
    mean_resizing: bool,
) -> nn.Embedding:
    """See `SqueezeBertPreTrainedModel.resize_token_embeddings`."""
    embeddings = model.get_input_embeddings()
    for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ArgumentError(f"{name} is {value!r}, expected a positive integer or None")
    size = embeddings.num_embeddings if new_num_tokens is None else new_num_tokens
    if pad_to_multiple_of is not None:
        size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
    deviation = model.config.initializer_range
    _resize_rows(embeddings, size, mean_resizing, deviation)
    embeddings.num_embeddings = size
    if embeddings.padding_idx is not None and embeddings.padding_idx >= size:
        embeddings.padding_idx = model.config.pad_token_id = None
    decoder = model.get_output_embeddings()
    if decoder is not None:
        # Tied, it is about to get the embeddings' weight, and transformers gives new words a bias of 0.
        _resize_rows(decoder, size, mean_resizing and not model.config.tie_word_embeddings, deviation)
        decoder.out_features = size
        model.set_output_embeddings(decoder)
    model.config.vocab_size = size
    model.tie_weights()
    return embeddings


@torch.no_grad()
def _resize_rows(
    module: nn.Embedding | nn.Linear, size: int, mean_resizing: bool, standard_deviation: float
) -> None:
    """Give `module` new parameters with `size` rows, unless it has as many."""
    old = {name: p for name, p in module.named_parameters(recurse=False) if p.shape[0] != size}
    for name, parameter in old.items():
        kept = parameter[:size]
        added = parameter.new_zeros(max(size - len(kept), 0), *parameter.shape[1:])
        if mean_resizing:
            added.copy_(_rows_near_the_mean(parameter, len(added)))
        elif name == "weight":
            added.normal_(0.0, standard_deviation)
        resized = nn.Parameter(torch.cat([kept, added]), requires_grad=parameter.requires_grad)
        setattr(module, name, resized)


def _rows_near_the_mean(old: Tensor, count: int) -> Tensor:
    """`count` normally distributed rows with the mean and 1e-9 times the covariance of `old`'s rows."""
    rows = old.float().reshape(len(old), -1)
    mean = rows.mean(0)
    centred = (rows - mean) / len(rows) ** 0.5
    # A matrix R with R^T R = covariance, also where the covariance is singular.
    root = torch.linalg.qr(centred, mode="r").R
    noise = torch.randn(count, len(root), device=old.device) @ root
    return (mean + 1e-9**0.5 * noise).reshape(count, *old.shape[1:])
