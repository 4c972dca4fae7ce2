"""What a mask that is added to scores says: which keys are padding, and whether queries and heads differ."""

from __future__ import annotations

import torch
from torch import Tensor


def is_readable(tensor: Tensor) -> bool:
    """Whether the host may look at values. A GPU's would make it wait, and are unknown while a graph is captured."""
    return tensor.device.type == "cpu"


def by_key(mask: Tensor) -> Tensor:
    """A mask added to scores with four axes, those of heads and queries of size one if nothing differs along them.

    transformers 5 hands its encoder a padding mask as [batch, 1, tokens, tokens], one copy a query. On a GPU an axis is
    of size one after this only where its stride says that nothing differs.
    """
    mask = mask[(None,) * (4 - mask.dim())]
    for axis in (1, 2):
        if mask.shape[axis] > 1:
            one = mask.narrow(axis, 0, 1)
            if mask.stride(axis) == 0 or (is_readable(mask) and torch.equal(one.expand_as(mask), mask)):
                mask = one
    return mask


def real_tokens(mask: Tensor, batch: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Which tokens a mask keeps, bool [batch, tokens], and whether it is a padding mask at all, bool [].

    A padding mask says for every key alike, in all heads and rows, yes (0) or no (the lowest number, or -inf). Nothing
    here waits for a GPU.
    """
    mask = mask[(None,) * (4 - mask.dim())]
    row = mask[:, :1, :1]
    keep = row == 0
    known = keep | (row == torch.finfo(mask.dtype).min) | (row == -torch.inf)
    is_padding = known.all()
    if mask.shape[1:3] != (1, 1):  # written out for every query, as transformers 5 does
        is_padding = is_padding & (mask == row).all()
    return keep[:, 0, 0].expand(batch, tokens), is_padding


def zero_where_blind(context: Tensor, attends: Tensor, heads: int) -> Tensor:
    """The context, [batch, tokens, channels], with zeros for the queries that attend to nothing.

    attends: bool, broadcastable to [batch, heads, tokens, 1].
    """
    attends = attends[(None,) * (4 - attends.dim())]
    by_head = context.unflatten(2, (heads, -1))
    return torch.where(attends.transpose(1, 2), by_head, 0.0).flatten(2)
