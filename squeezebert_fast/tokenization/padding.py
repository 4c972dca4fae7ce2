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
    ids = _rows("input_ids", columns["input_ids"])
    single = bool(ids) and not _is_row(ids[0])
    if single:
        ids = [_row("input_ids", columns["input_ids"])]
    lengths = [len(_row("input_ids", row)) for row in ids]
    if with_attention_mask:
        columns.setdefault("attention_mask", [1] * lengths[0] if single else [[1] * n for n in lengths])
    for name in () if single else columns:
        if not hasattr(columns[name], "__len__") or len(columns[name]) != len(lengths):
            raise TokenizerError(f"{name} isn't a list of {len(lengths)} rows as input_ids is")
    target = layout.padded_length(max(lengths, default=0)) if layout.padding != "do_not_pad" else 0
    for name in fillers.keys() & columns.keys():
        rows = [columns[name]] if single else _rows(name, columns[name])
        padded = [_padded(name, _row(name, row), target, fillers[name], layout.padding_side) for row in rows]
        columns[name] = padded[0] if single else padded
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


def _rows(name: str, column: Any) -> list[Any]:
    if not _is_row(column):
        raise TokenizerError(f"{name} is {column!r}; expected a list of ids or of rows")
    return list(column)


def _row(name: str, row: Any) -> Any:
    """A row as a list, a tensor or an array."""
    if not _is_row(row):
        raise TokenizerError(f"{name} has the row {row!r}; expected a list")
    if not isinstance(row, (list, tuple)):
        return row
    # A list of tensors without a dimension, as some data sets give it, is a list of numbers.
    return [value.item() for value in row] if row and getattr(row[0], "ndim", None) == 0 else list(row)


def _padded(name: str, row: Any, target: int, filler: int, side: str) -> Any:
    """The row, of its own dtype, at `target` length."""
    missing = target - len(row)
    if missing <= 0 or (name == "attention_mask" and getattr(row, "ndim", 1) > 1):
        return row  # such a mask is [heads, tokens, tokens] and made for this length
    ends = (missing, 0) if side == "left" else (0, missing)
    if isinstance(row, torch.Tensor):
        return torch.nn.functional.pad(row, ends, value=filler)
    if isinstance(row, np.ndarray):
        return np.pad(row, ends, constant_values=filler)
    kind = type(row[0]) if row and isinstance(row[0], (bool, float)) else int
    padding = [kind(filler)] * missing
    return padding + row if side == "left" else row + padding
