"""Padding of batches that were encoded without it: the tokenizer's `pad` method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import Layout
from squeezebert_fast.tokenization.batch_encoding import BatchEncoding
from squeezebert_fast.tokenization.tensors import check_tensor_type, whole_numbers_as_int64


def pad_encoded(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    layout: Layout,
    pad_id: int,
    with_attention_mask: bool,
    return_tensors: str | None,
) -> BatchEncoding:
    """Pads a dict of rows, of one row, or a list of dicts of one row each; returns them the same way round.

    Only the columns that a tokenizer makes are padded. The others, labels say, are the caller's: they are
    turned into tensors where those are asked for, and otherwise stay as they are.
    Without `return_tensors` tensors become tensors and arrays arrays again.
    """
    check_tensor_type(return_tensors)
    columns = _collate(encoded)
    if "input_ids" not in columns:
        raise TokenizerError(f"the batch has the keys {sorted(columns)}; expected input_ids among them")
    return_tensors = return_tensors or _tensor_type(columns["input_ids"])
    fillers = {"input_ids": pad_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
    first = next(iter(_values("input_ids", columns["input_ids"])), None)
    single = first is not None and not _is_row(first)
    columns = {name: [column] if single else column for name, column in columns.items()}
    rows = {
        name: [_row(name, row) for row in _values(name, columns[name])]
        for name in fillers.keys() & columns.keys()
    }
    lengths = [len(row) for row in rows["input_ids"]]
    for name, column in columns.items():
        if not hasattr(column, "__len__") or len(column) != len(lengths):
            raise TokenizerError(f"{name} isn't a list of {len(lengths)} rows as input_ids is")
    if with_attention_mask and "attention_mask" not in rows:
        rows["attention_mask"] = [[1] * length for length in lengths]
    target = layout.padded_length(max(lengths, default=0)) if layout.padding != "do_not_pad" else 0
    for name, unpadded in rows.items():
        columns[name] = [_padded(name, row, target, fillers[name], layout.padding_side) for row in unpadded]
    if single:
        columns = {name: column[0] for name, column in columns.items()}
    batch = BatchEncoding(columns).convert_to_tensors(return_tensors)
    batch.data = {name: whole_numbers_as_int64(value) for name, value in batch.data.items()}
    return batch


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
    while isinstance(ids, (list, tuple)) and ids:
        ids = ids[0]
    if isinstance(ids, torch.Tensor):
        return "pt"
    return "np" if isinstance(ids, np.ndarray) else None


def _is_row(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


def _values(name: str, column: Any) -> Any:
    if not _is_row(column):
        raise TokenizerError(f"{name} is {column!r}; expected a list of ids or of rows")
    return column


def _row(name: str, row: Any) -> Any:
    """The row as a list, tensor or array."""
    if isinstance(row, (list, tuple)):
        # A list of tensors without a dimension, as some data sets give it, is a list of numbers.
        return [value.item() for value in row] if row and getattr(row[0], "ndim", None) == 0 else list(row)
    if not _is_row(row):
        raise TokenizerError(f"{name} has the row {row!r}; expected a list")
    return row


def _padded(name: str, row: Any, target: int, filler: int, side: str) -> Any:
    """The row, of its own dtype, at `target` length."""
    missing = target - len(row)
    if missing <= 0:
        return row
    if isinstance(row, list):
        like = type(row[0])(filler) if row and isinstance(row[0], (bool, float)) else filler
        padding = [like] * missing
        return padding + row if side == "left" else row + padding
    if name == "attention_mask" and row.ndim > 1:
        return row  # such a mask is [heads, tokens, tokens] and made for this length
    ends = (missing, 0) if side == "left" else (0, missing)
    if isinstance(row, torch.Tensor):
        return torch.nn.functional.pad(row, ends, value=filler)
    return np.pad(row, ends, constant_values=filler)
