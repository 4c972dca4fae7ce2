"""The sum of three tables' rows and LayerNorm: what a SqueezeBERT reads its inputs with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops.add_layer_norm import add_layer_norm


def embeddings(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor,
    words: Tensor,
    positions: Tensor,
    token_types: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-12,
    padding_idx: int | None = None,
    *,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`layer_norm(words[input_ids] + positions[position_ids] + token_types[token_type_ids])`.

    PyTorch gathers the rows, and adds their gradients up in a fixed order; `add_layer_norm` serves the rest. (A patched
    model that infers has all of it in one kernel.)

    Args:
        input_ids, position_ids, token_type_ids: int64 or int32, [batch, tokens], or broadcastable to that.
        words, positions, token_types: [rows, channels], a floating dtype.
        weight, bias: [channels].
        eps: added to the variance.
        padding_idx: a row of `words` that gets no gradient, as in `nn.Embedding`.
        backend, strict: as in `add_layer_norm`.

    Returns:
        [batch, tokens, channels].

    Raises:
        ArgumentError: shapes, dtypes or devices don't fit, or padding_idx is out of range.
        IndexError: an id is out of its table's range (on a GPU, which doesn't say so in time, a CUDA error later).

    >>> ids, table = torch.tensor([[3, 1]]), torch.randn(5, 8)
    >>> embeddings(ids, ids * 0, ids * 0, table, table, table, torch.ones(8), torch.zeros(8)).shape
    torch.Size([1, 2, 8])

    Source: `SqueezeBertEmbeddings` in transformers' `modeling_squeezebert.py`.
    """
    for name, table in (("words", words), ("positions", positions), ("token_types", token_types)):
        if not isinstance(table, Tensor) or table.dim() != 2 or table.shape[1] != words.shape[-1]:
            came = list(table.shape) if isinstance(table, Tensor) else type(table).__name__
            raise ArgumentError(f"{name} is {came}, expected [rows, channels] with the channels of words")
    if padding_idx is not None and not -words.shape[0] <= padding_idx < words.shape[0]:
        raise ArgumentError(f"padding_idx is {padding_idx}, but words has {words.shape[0]} rows")
    rows = F.embedding(input_ids, words, padding_idx)
    others = F.embedding(position_ids, positions) + F.embedding(token_type_ids, token_types)
    return add_layer_norm(rows, others.expand_as(rows), weight, bias, eps, backend=backend, strict=strict)
