"""Sentence vectors from token vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu_rows
from squeezebert_fast.errors import ArgumentError


def mean_pool(last_hidden_state: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of each sequence's token vectors, padding left out.

    last_hidden_state: floating-point [batch, tokens, channels].
    attention_mask: [batch, tokens], nonzero for the tokens that count.

    Returns [batch, channels] in `last_hidden_state`'s dtype, summed in float32 at least; zeros for a sequence
    without tokens. Raises ArgumentError for other shapes or dtypes.
    Source: Reimers and Gurevych 2019, Sentence-BERT (arXiv 1908.10084).

    >>> mean_pool(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2., 3.]])
    """
    if last_hidden_state.dim() != 3 or not last_hidden_state.is_floating_point():
        raise ArgumentError(
            f"last_hidden_state is {last_hidden_state.dtype} {list(last_hidden_state.shape)}, "
            "expected floating point [batch, tokens, channels]"
        )
    batch_and_tokens = last_hidden_state.shape[:2]
    if attention_mask.shape != batch_and_tokens:
        raise ArgumentError(
            f"attention_mask has shape {list(attention_mask.shape)}, expected {list(batch_and_tokens)}"
        )
    if cpu_rows.takes(last_hidden_state):
        return cpu_rows.mean_pool(last_hidden_state, attention_mask)
    dtype = torch.promote_types(last_hidden_state.dtype, torch.float32)
    counts = (attention_mask != 0).to(last_hidden_state.device)
    kept = torch.where(counts.unsqueeze(-1), last_hidden_state, 0).to(dtype)  # a padding's NaN must not count
    return (kept.sum(1) / counts.sum(1, keepdim=True).clamp(min=1)).to(last_hidden_state.dtype)


def to_unit_length(vectors: Tensor) -> Tensor:
    """Each row of [rows, channels] over its length, or over 1e-12 where that is less."""
    if cpu_rows.takes(vectors):
        return cpu_rows.to_unit_length(vectors)
    return torch.nn.functional.normalize(vectors, dim=-1)
