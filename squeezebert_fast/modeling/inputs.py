"""The one place where what a caller hands to a model is checked, and its attention mask made additive."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError

INDEX_DTYPES = (torch.int64, torch.int32)


def check_inputs(
    config: SqueezeBertConfig,
    words: Tensor,
    input_ids: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
) -> None:
    """Raise ArgumentError unless the embeddings can be looked up for these inputs, but for the ids' ranges.

    Ranges are checked by `explain_index_error` only once a look-up has failed, since reading them would make
    a GPU wait.
    words: the word embeddings' weight, whose dtype `inputs_embeds` must not exceed.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ArgumentError(f"expected exactly one of input_ids and inputs_embeds, got {given}")
    if input_ids is not None:
        _require_indices("input_ids", input_ids)
        if input_ids.dim() != 2:
            raise ArgumentError(f"input_ids has shape {list(input_ids.shape)}, expected [batch, tokens]")
        batch, tokens = input_ids.shape
    else:
        batch, tokens = _check_embeds(config, words.dtype, inputs_embeds)
    if tokens == 0:
        raise ArgumentError(
            "input_ids or inputs_embeds has no tokens, expected at least one for each sequence"
        )
    if position_ids is None and tokens > config.max_position_embeddings:
        raise ArgumentError(
            f"input_ids or inputs_embeds has {tokens} tokens, "
            f"expected at most max_position_embeddings ({config.max_position_embeddings})"
        )
    for name, ids in (("token_type_ids", token_type_ids), ("position_ids", position_ids)):
        if ids is None:
            continue
        _require_indices(name, ids)
        fits = (
            ids.dim() in (1, 2) and ids.shape[-1] == tokens and (ids.dim() == 1 or ids.shape[0] in (1, batch))
        )
        if not fits:
            raise ArgumentError(
                f"{name} has shape {list(ids.shape)}, expected [{batch}, {tokens}] or [1, {tokens}]"
            )
    tensors = {
        "input_ids": input_ids,
        "inputs_embeds": inputs_embeds,
        "token_type_ids": token_type_ids,
        "position_ids": position_ids,
    }
    for name, tensor in tensors.items():
        _require_values(name, tensor, words)


def _require_values(name: str, tensor: Tensor | None, other: Tensor) -> None:
    """PyTorch looks ids without values up all the same, and gives what happens to stand in memory."""
    if tensor is not None and tensor.is_meta and not other.is_meta:
        raise ArgumentError(
            f"{name} is on the meta device, expected values, as the model has on {other.device}"
        )


def _check_embeds(
    config: SqueezeBertConfig, dtype: torch.dtype, inputs_embeds: Tensor | None
) -> tuple[int, int]:
    if not isinstance(inputs_embeds, Tensor) or not inputs_embeds.is_floating_point():
        raise ArgumentError(f"inputs_embeds is {_kind(inputs_embeds)}, expected a floating-point tensor")
    if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != config.hidden_size:
        expected = f"[batch, tokens, {config.hidden_size}]"
        raise ArgumentError(f"inputs_embeds has shape {list(inputs_embeds.shape)}, expected {expected}")
    if torch.promote_types(inputs_embeds.dtype, dtype) != dtype:
        raise ArgumentError(f"inputs_embeds is {inputs_embeds.dtype}, expected the model's {dtype}")
    return inputs_embeds.shape[0], inputs_embeds.shape[1]


def _require_indices(name: str, ids: Tensor) -> None:
    if not isinstance(ids, Tensor) or ids.dtype not in INDEX_DTYPES:
        raise ArgumentError(f"{name} is {_kind(ids)}, expected an int64 or int32 tensor")


def _kind(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def explain_index_error(name: str, ids: Tensor, size: int, size_name: str) -> ArgumentError | None:
    """The error that says which index of `ids` is not in [0, size), or None where all are."""
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.numel() == 0:
        return None
    return ArgumentError(
        f"{name} holds {outside[0].item()}, expected indices from 0 to {size_name} - 1 = {size - 1}"
    )


def additive_mask(attention_mask: Tensor | None, hidden_states: Tensor, num_heads: int) -> Tensor | None:
    """The mask that attention adds to its scores, in `hidden_states`' dtype; None where none was given.

    attention_mask: [batch, tokens] of any dtype, where nonzero means "attend", or 4-D and broadcastable to
    [batch, heads, queries, keys], which is added as it is, a bool one as 0 and 1: transformers does both so.
    Returns [batch, 1, 1, tokens] for a 2-D mask. What isn't attended gets the dtype's lowest finite number,
    so that a row with nothing to attend stays finite. Raises ArgumentError for another shape, or a dtype that
    would widen the scores.
    """
    if attention_mask is None:
        return None
    batch, tokens = hidden_states.shape[:2]
    if not isinstance(attention_mask, Tensor):
        raise ArgumentError(f"attention_mask is a {type(attention_mask).__name__}, expected a tensor")
    _require_values("attention_mask", attention_mask, hidden_states)
    shape, dtype = attention_mask.shape, hidden_states.dtype
    if attention_mask.dim() == 2 and shape[0] == batch and shape[1] == tokens:
        attend = attention_mask.to(hidden_states.device, torch.bool)[:, None, None, :]
        zero = torch.zeros((), dtype=dtype, device=hidden_states.device)
        return torch.where(attend, zero, torch.finfo(dtype).min)
    target = (batch, num_heads, tokens, tokens)
    if attention_mask.dim() != 4 or not all(
        n == 1 or n == full for n, full in zip(shape, target, strict=True)
    ):
        expected = f"[{batch}, {tokens}] or 4-D and broadcastable to {list(target)}"
        raise ArgumentError(f"attention_mask has shape {list(shape)}, expected {expected}")
    if torch.promote_types(attention_mask.dtype, dtype) != dtype:
        raise ArgumentError(
            f"attention_mask is {attention_mask.dtype}, expected the model's {dtype} for a 4-D mask"
        )
    return attention_mask.to(hidden_states.device, dtype)
