"""Multi-head scaled dot-product attention with an additive mask."""

from __future__ import annotations

from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.request import Request, obstacle
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.ops import reference


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    num_heads: int = 1,
    dropout_p: float = 0.0,
    *,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`dropout(softmax(q k^T / sqrt(head_size) + mask)) v`, head by head.

    Args:
        q: [batch, queries, channels]; heads are consecutive stretches of channels / num_heads.
        k, v: [batch, keys, channels].
        mask: added to the scores, of q's dtype, broadcastable to [batch, num_heads, queries, keys], or None.
        num_heads: a divisor of channels.
        dropout_p: probability in [0, 1) of dropping an attention weight.
        backend, strict: as in `grouped_pointwise_conv`. This version has no kernel: the reference serves.

    Returns:
        [batch, queries, channels]. A row whose mask is everywhere the dtype's smallest value attends to all keys
        equally, as in transformers: never NaN.

    Raises:
        ArgumentError: shapes don't fit.

    >>> q = torch.randn(2, 5, 8)
    >>> attention(q, q, q, num_heads=2).shape
    torch.Size([2, 5, 8])

    Source: `SqueezeBertSelfAttention` in transformers' `modeling_squeezebert.py`.
    """
    if q.dim() != 3:
        raise ArgumentError(f"q has shape {list(q.shape)}, expected [batch, queries, channels]")
    batch, queries, channels = q.shape
    if k.dim() != 3 or k.shape[0] != batch or k.shape[2] != channels:
        raise ArgumentError(f"k has shape {list(k.shape)}, expected [{batch}, keys, {channels}]")
    if v.shape != k.shape:
        raise ArgumentError(f"v has shape {list(v.shape)}, expected k's, {list(k.shape)}")
    if num_heads < 1 or channels % num_heads:
        raise ArgumentError(
            f"num_heads is {num_heads}, expected a positive divisor of the {channels} channels"
        )
    if not 0.0 <= dropout_p < 1.0:
        raise ArgumentError(f"dropout_p is {dropout_p}, expected 0 <= dropout_p < 1")
    scores_shape = (batch, num_heads, queries, k.shape[1])
    if mask is not None and not _broadcasts(tuple(mask.shape), scores_shape):
        raise ArgumentError(
            f"mask has shape {list(mask.shape)}, expected one that broadcasts to {list(scores_shape)}"
        )
    backends.choose(Request("attention", q.device, q.dtype, obstacle(q, k, v, mask)), backend, strict)
    return reference.attention(q, k, v, mask, num_heads, dropout_p)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(
        size in (1, wanted) for size, wanted in zip(reversed(shape), reversed(target), strict=False)
    )
