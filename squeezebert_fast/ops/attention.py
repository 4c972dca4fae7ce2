"""Multi-head scaled dot-product attention with an additive mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.masks import zero_where_blind
from squeezebert_fast.backends.request import Gradients, autocast_dtype, autocast_to, request_for
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.differentiable import Differentiable, needed, through_definition
from squeezebert_fast.ops.dropout import draw_seed


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    num_heads: int = 1,
    dropout_p: float = 0.0,
    *,
    attends: Tensor | None = None,
    backend: str = "auto",
    strict: bool = False,
) -> Tensor:
    """`dropout(softmax(q k^T / sqrt(head_size) + mask)) v`, head by head.

    Args:
        q: [batch, queries, channels]; heads are consecutive stretches of channels / num_heads.
        k, v: [batch, keys, channels].
        mask: added to the scores, of q's dtype, broadcastable to [batch, num_heads, queries, keys], or None.
        num_heads: a divisor of channels.
        dropout_p: probability in [0, 1] of dropping an attention weight. The others grow by 1 / (1 - dropout_p).
            Seeded by PyTorch's default generator of the device.
        attends: bool, broadcastable to [batch, num_heads, queries, 1]: the context of the other queries is zero, as
            `scaled_dot_product_attention` has it for those whose mask allows no key. None: every query has one.
        backend, strict: as in `grouped_pointwise_conv`. The reference serves for a mask that needs a gradient.

    Returns:
        [batch, queries, channels] in q's dtype, or autocast's. A row whose mask is everywhere the dtype's smallest
        value attends to all keys equally, as in transformers: never NaN.

    Raises:
        ArgumentError: shapes, dtypes or devices don't fit.

    >>> q = torch.randn(2, 5, 8)
    >>> attention(q, q, q, num_heads=2).shape
    torch.Size([2, 5, 8])

    Source: `SqueezeBertSelfAttention` in transformers' `modeling_squeezebert.py`.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v), ("mask", mask), ("attends", attends)):
        if not isinstance(tensor, Tensor) and not (tensor is None and name in ("mask", "attends")):
            raise ArgumentError(f"{name} is a {type(tensor).__name__}, expected a tensor")
    if q.dim() != 3:
        raise ArgumentError(f"q has shape {list(q.shape)}, expected [batch, queries, channels]")
    batch, queries, channels = q.shape
    if k.dim() != 3 or k.shape[0] != batch or k.shape[2] != channels:
        raise ArgumentError(f"k has shape {list(k.shape)}, expected [{batch}, keys, {channels}]")
    if v.shape != k.shape:
        raise ArgumentError(f"v has shape {list(v.shape)}, expected k's, {list(k.shape)}")
    if not isinstance(num_heads, int) or isinstance(num_heads, bool) or num_heads < 1 or channels % num_heads:
        raise ArgumentError(
            f"num_heads is {num_heads!r}, expected a positive divisor of the {channels} channels"
        )
    if not 0.0 <= dropout_p <= 1.0:
        raise ArgumentError(f"dropout_p is {dropout_p}, expected 0 <= dropout_p <= 1")
    scores_shape = (batch, num_heads, queries, k.shape[1])
    if mask is not None and not broadcasts(tuple(mask.shape), scores_shape):
        raise ArgumentError(
            f"mask has shape {list(mask.shape)}, expected one that broadcasts to {list(scores_shape)}"
        )
    rows_shape = (*scores_shape[:3], 1)
    if attends is not None and (
        attends.dtype is not torch.bool or not broadcasts(tuple(attends.shape), rows_shape)
    ):
        raise ArgumentError(
            f"attends is {attends.dtype} of shape {list(attends.shape)}, expected bool that broadcasts to "
            f"{list(rows_shape)}"
        )
    if not q.dtype.is_floating_point:
        raise ArgumentError(f"q is {q.dtype}, expected a floating dtype")
    for name, tensor in (("k", k), ("v", v), ("mask", mask), ("attends", attends)):
        if tensor is not None and tensor.device != q.device:
            raise ArgumentError(f"{name} is on {tensor.device}, but q is on {q.device}")
    for name, tensor in (("k", k), ("v", v), ("mask", mask)):
        if tensor is not None and tensor.dtype != q.dtype and autocast_dtype(q.device) is None:
            raise ArgumentError(f"{name} is {tensor.dtype}, but q is {q.dtype}")
    # a mask that learns is the reference's: the kernels keep no scores to give it a gradient
    learns = mask is not None and mask.requires_grad and torch.is_grad_enabled()
    request = request_for(
        "attention",
        q,
        k,
        v,
        mask,
        sizes={"channels": channels, "num_heads": num_heads},
        obstacle="the mask needs a gradient" if learns else None,
    )
    chosen = backends.choose(request, backend, strict).backend
    if chosen != "reference":
        q, k, v = (autocast_to(request.autocast, t) for t in (q, k, v))
        seed = draw_seed(dropout_p, q.device)
        result, _ = on_kernels(chosen, q, k, v, mask, num_heads, dropout_p, seed, attends)
        return result
    if request.obstacle or request.traced or request.autocast or not scores_may_go(q, mask):
        result = reference.attention(q, k, v, mask, num_heads, dropout_p)
    else:
        result = without_scores(q, k, v, mask, num_heads, dropout_p)
    return result if attends is None else zero_where_blind(result, attends, num_heads)


# With scores this small, adding the smallest number gives the smallest number, in float32 and bfloat16 too.
_LARGEST_SCORE = 1e30


def scores_may_go(q: Tensor, mask: Tensor | None) -> bool:
    """Whether `without_scores` serves q's dtype and this mask.

    PyTorch's fused operation adds in float32, so that in float16 a row that is masked everywhere by the
    smallest number would attend to its masked keys; and it makes zeros of a row masked by -inf, where the
    softmax has no value. Finding such a row would make a GPU wait.
    """
    if q.device.type != "cpu" or q.dtype is torch.float16:
        return False
    return mask is None or bool(mask.isfinite().all())


def without_scores(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, num_heads: int, dropout_p: float
) -> Tensor:
    """The definition through PyTorch's fused operation, whose scores are never in memory.

    For arguments that `scores_may_go` has passed. What the fused operation lacks takes the definition: a
    second derivative, dropout in the order of PyTorch's own, and NaN as the result where the scores are NaN
    or infinite, for it makes zeros of such rows.
    """
    tensors = (q, k, v) if mask is None else (q, k, v, mask)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if needs_grad or dropout_p > 0.0 or q.numel() == 0 or k.numel() == 0 or not _scores_are_finite(q, k):
        return reference.attention(q, k, v, mask, num_heads, dropout_p)
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _scores_are_finite(q: Tensor, k: Tensor) -> bool:
    """By the Cauchy-Schwarz inequality no score exceeds the product of the norms, which a NaN makes NaN."""
    return float(torch.linalg.vector_norm(q) * torch.linalg.vector_norm(k)) <= _LARGEST_SCORE


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` can be added to one of the shape `target` without changing that."""
    return len(shape) <= len(target) and all(
        size in (1, wanted) for size, wanted in zip(reversed(shape), reversed(target), strict=False)
    )


def _fake(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, num_heads: int, *_: Any
) -> tuple[Tensor, Tensor]:
    rows = (q.shape[0], num_heads, q.shape[1], 2)
    return q.new_empty(q.shape), q.new_empty(rows, dtype=torch.float32)


def _backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> list[Tensor]:
    return needed(rest[-1], grad, [(t.shape, t.dtype) for t in (q, k, v)])


def _kept(
    inputs: tuple[Any, ...], results: tuple[Tensor, ...], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The tensors among the arguments and two numbers a row, no scores."""
    *tensors, _, _, seed, attends = inputs
    _, statistics = results
    return *tensors, statistics, seed, attends


def _gradients(ctx: Any, kernel: Callable[..., Gradients], grad: Tensor, _: Any) -> Gradients:
    *tensors, seed, _ = ctx.saved_tensors
    return kernel(grad, *tensors, *ctx.options, seed, ctx.needs_input_grad[:3])


def _definition(ctx: Any, grad: Tensor, _: Any) -> Gradients:
    *qkv, mask, _, _, attends = ctx.saved_tensors
    num_heads, dropout_p = ctx.options
    if dropout_p > 0.0:  # only the kernel can draw its mask
        raise UnsupportedError(
            f"attention: dropout_p is {dropout_p}, and only without dropout can its gradient be differentiated or "
            'batched; backend="reference" can with it'
        )

    def by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = reference.attention_scores(q, k, mask, num_heads)
        context = reference.attention_context(scores.to(q.dtype), v)
        return context if attends is None else zero_where_blind(context, attends, num_heads)

    return through_definition(by_definition, qkv, ctx.needs_input_grad[:3], grad)


on_kernels = Differentiable(
    "attention",
    fake=_fake,
    backward_fake=_backward_fake,
    kept=_kept,
    gradients=_gradients,
    definition=_definition,
    statistics=1,
)
