"""Padding of batches that were encoded without it: the tokenizer's `pad` method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import Layout
from squeezebert_fast.tokenization.batch_encoding import BatchEncoding, check_tensor_type


def pad_encoded(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    layout: Layout,
    pad_id: int,
    with_attention_mask: bool,
    return_tensors: str | None,
) -> BatchEncoding:
    """Pads a dict of rows, of one row, or a list of dicts of one row each; returns them the same way round.

    Without `return_tensors` tensors become tensors and arrays arrays again.
    """
    check_tensor_type(return_tensors)
    batch = _collate(encoded)
    if "input_ids" not in batch:
        raise TokenizerError(f"the batch has the keys {sorted(batch)}; expected input_ids among them")
    return_tensors = return_tensors or _tensor_type(batch["input_ids"])
    values = {name: _listed(value) for name, value in batch.items()}
    ids = values["input_ids"]
    if not isinstance(ids, list):
        raise TokenizerError(f"input_ids is {ids!r}; expected a list of ids or of rows")
    single = bool(ids) and not isinstance(ids[0], list)
    if single:
        values = {name: [value] for name, value in values.items()}
    broken = [row for row in values["input_ids"] if not isinstance(row, list)]
    if broken:
        raise TokenizerError(f"input_ids has the row {broken[0]!r}; expected a list")
    lengths = [len(row) for row in values["input_ids"]]
    for name, value in values.items():
        if not isinstance(value, list) or len(value) != len(lengths):
            raise TokenizerError(f"{name} isn't a list of {len(lengths)} rows as input_ids is")
    if with_attention_mask:
        values.setdefault("attention_mask", [[1] * length for length in lengths])
    if layout.padding != "do_not_pad":
        target = layout.padded_length(max(lengths, default=0))
        fillers = {"input_ids": pad_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
        for name in fillers.keys() & values.keys():
            values[name] = [_padded(name, row, target, fillers[name], layout) for row in values[name]]
    if single:
        values = {name: value[0] for name, value in values.items()}
    return BatchEncoding(values).convert_to_tensors(return_tensors)


def _collate(encoded: Any) -> dict[str, Any]:
    if isinstance(encoded, Mapping):
        return dict(encoded)
    if (
        not isinstance(encoded, (list, tuple))
        or not encoded
        or not all(isinstance(e, Mapping) for e in encoded)
    ):
        raise TokenizerError(
            f"pad got a {type(encoded).__name__}; expected a dict, or a list of at least one dict"
        )
    missing = [name for name in encoded[0] for row in encoded if name not in row]
    if missing:
        raise TokenizerError(
            f"a row has no {missing[0]!r} though the first row has; expected the same keys in all"
        )
    return {name: [row[name] for row in encoded] for name in encoded[0]}


def _tensor_type(ids: Any) -> str | None:
    sample = ids[0] if isinstance(ids, (list, tuple)) and ids else ids
    if isinstance(sample, torch.Tensor):
        return "pt"
    return "np" if isinstance(sample, np.ndarray) else None


def _listed(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return (
            [_listed(part) for part in value]
            if value and not isinstance(value[0], (int, str))
            else list(value)
        )
    return value


def _padded(name: str, row: Any, target: int, filler: int, layout: Layout) -> list[int]:
    if not isinstance(row, list):
        raise TokenizerError(f"{name} has the row {row!r}; expected a list")
    padding = [filler] * (target - len(row))
    return padding + row if layout.padding_side == "left" else row + padding
