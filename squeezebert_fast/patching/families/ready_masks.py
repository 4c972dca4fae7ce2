"""Padding masks of transformers 5, made before its models would make them, with one row for all queries.

Its models write a mask [batch, tokens] out as [batch, 1, tokens, tokens], the same row for every query. A mask that
has four axes already they hand on as it is, which is documented (`create_bidirectional_mask`). So what is made here
is what an encoder gets, and rows needn't be compared to know that they are equal.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends.request import autocast_dtype
from squeezebert_fast.patching.families.family import Holder, is_own

MASKS = "transformers.masking_utils"
MAKER, METHOD = "create_bidirectional_mask", "_create_attention_masks"
"""Who makes a mask, and in most models the method that asks for it."""
KINDS = {"eager": "eager_mask", "sdpa": "sdpa_mask"}
"""By kind of attention, who writes its masks out."""


def holder_in(names: dict[str, Any], name: str, encoder: str) -> Holder | None:
    """The class of that name among a module's, if its masks are transformers 5's; older ones take no four axes."""
    return Holder(names[name], encoder) if MAKER in names else None


def writes_masks_out(holder: Any) -> bool:
    """Whether transformers' own code would make the mask of a call of `holder`, for queries that see all real keys."""
    kind, home = holder.config._attn_implementation, type(holder).__module__
    if getattr(holder.config, "is_decoder", False) or kind not in KINDS:
        return False
    method = getattr(type(holder), METHOD, None)  # which not all of them have
    if METHOD in holder.__dict__ or (method is not None and not is_own(method, home)):
        return False
    masks, names = sys.modules[MASKS].__dict__, sys.modules[home].__dict__
    makers = masks[MAKER], masks[KINDS[kind]]
    used = names[MAKER], masks["ALL_MASK_ATTENTION_FUNCTIONS"][kind]
    return used == makers and all(is_own(maker, MASKS) for maker in makers)


def ready_mask(holder: Any, keep: Tensor) -> Tensor | None:
    """[batch, 1, 1, tokens] of [batch, tokens], for a holder that `writes_masks_out`; None to leave it to the library.

    As transformers makes it: for sdpa, bool, what is attended to; for eager attention, numbers to add, in the dtype of
    what the encoder gets.
    """
    weight = holder.embeddings.LayerNorm.weight
    if keep.device != weight.device:
        return None
    attend = keep.to(torch.bool)[:, None, None]
    if holder.config._attn_implementation == "sdpa":
        return attend
    autocast, dtype = autocast_dtype(keep.device), weight.dtype
    if autocast is not None:
        if dtype is not torch.float32:  # of which devices make different things
            return None
        if hasattr(holder, "embeddings_project"):  # a product, which autocast rounds
            dtype = autocast
    return torch.where(attend, torch.zeros((), dtype=dtype, device=keep.device), torch.finfo(dtype).min)
