"""A batch's columns as tensors or arrays: what becomes of each value and its dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from squeezebert_fast.errors import TokenizerError, check_among

_LARGEST = torch.iinfo(torch.int64).max


def check_tensor_type(tensor_type: str | None) -> None:
    """Raises `TokenizerError` unless `tensor_type` is None, `pt` or `np`."""
    if tensor_type is not None:
        check_among("return_tensors", tensor_type, ("pt", "np"), TokenizerError)


def as_tensor(name: str, column: Any, tensor_type: str) -> torch.Tensor | np.ndarray[Any, Any]:
    """A column as one tensor (`pt`) or array (`np`), by the rules of transformers.

    What is one tensor or array already keeps its dtype. Of lists, whole numbers become int64, Python's floats
    torch's default dtype (float64 as an array), and everything else keeps its dtype: flags, NumPy's scalars,
    tensors of float16. NumPy has no bfloat16: as an array it becomes float32.
    Raises `TokenizerError` that names the column if its rows differ in length or hold something else.
    """
    try:
        return _of_kind(_joined(column), tensor_type, python_floats=_is_python(_first(column)))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise TokenizerError(
            f"{name} can't become one tensor: its rows differ in length (see padding, truncation) "
            "or hold something other than numbers of 64 bits"
        ) from error


def whole_numbers_as_int64(column: Any) -> Any:
    """A tensor or array of integers as int64, which models expect of ids and labels; all else as it is."""
    if isinstance(column, torch.Tensor):
        whole = not (column.is_floating_point() or column.is_complex() or column.dtype == torch.bool)
        return column.to(torch.int64) if whole else column
    if isinstance(column, np.ndarray) and column.dtype.kind in "iu":
        if column.dtype == np.uint64 and column.size and column.max() > _LARGEST:
            raise OverflowError(f"{column.max()} is too large for int64")
        return column.astype(np.int64, copy=False)
    return column


def _joined(column: Any) -> torch.Tensor | np.ndarray[Any, Any]:
    if isinstance(column, (torch.Tensor, np.ndarray)):
        return column
    if isinstance(_first(column), torch.Tensor):
        return whole_numbers_as_int64(torch.stack([torch.as_tensor(_joined(part)) for part in column]))
    array = np.asarray(column)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"holds {array.dtype}")
    if array.dtype.kind == "f" and isinstance(_first(column), int) and np.abs(array).max() >= 2.0**63:
        raise OverflowError("holds an integer beyond int64, of which NumPy made a float")
    return whole_numbers_as_int64(array if array.size else array.astype(np.int64))


def _of_kind(
    joined: torch.Tensor | np.ndarray[Any, Any], tensor_type: str, *, python_floats: bool
) -> torch.Tensor | np.ndarray[Any, Any]:
    if isinstance(joined, torch.Tensor):
        if tensor_type == "pt":
            return joined
        return (joined.float() if joined.dtype == torch.bfloat16 else joined).numpy(force=True)
    if tensor_type == "np":
        return joined
    made = torch.tensor(joined) if not joined.flags.writeable else torch.from_numpy(joined)
    return made.to(torch.get_default_dtype()) if python_floats and made.is_floating_point() else made


def _first(column: Any) -> Any:
    """The first value in nested lists: a number, a tensor, an array."""
    while isinstance(column, (list, tuple)) and column:
        column = column[0]
    return column


def _is_python(value: Any) -> bool:
    return not isinstance(value, (torch.Tensor, np.ndarray, np.generic))
