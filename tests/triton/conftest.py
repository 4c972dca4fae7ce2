"""The Triton kernels on a GPU where there is one, else in Triton's interpreter on CPU tensors.

    python -m pytest tests/triton

`TRITON_INTERPRET` is read when a kernel is decorated, and holds for the whole process: so these tests have
one of their own, and a plain `pytest` doesn't come here (`norecursedirs` in pyproject.toml).

Interpreters up to 3.9 hold bfloat16 as uint16: a `tl.dot` multiplies those integers without a word, and a
conversion from float32 truncates. And a `tl.dot` that may use tf32 multiplies in float32. These are put right here.
Elementwise bfloat16 arithmetic is wrong as well: kernels convert to float32 right after a load.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np
    import triton.language as tl
    from triton._C.libtriton.ir import INPUT_PRECISION
    from triton.runtime import interpreter

    Handle = interpreter.TensorHandle
    Builder = interpreter.InterpreterBuilder
    _stock_dot, _stock_cast = Builder.create_dot, Builder.cast_impl

    def _widened(handle: Handle) -> np.ndarray:
        if handle.dtype.scalar != tl.bfloat16:
            return handle.data
        return (handle.data.astype(np.uint32) << 16).view(np.float32)

    def _tf32(handle: Handle) -> Handle:
        if handle.dtype.scalar != tl.float32:
            return handle
        bits = np.ascontiguousarray(handle.data).view(np.uint32)
        rounded = ((bits.astype(np.uint64) + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)
        return Handle(np.where(np.isfinite(handle.data), rounded, handle.data), tl.float32)

    def _dot(self: Builder, a: Handle, b: Handle, acc: Handle, precision: object, *rest: object) -> Handle:
        if tl.bfloat16 not in (a.dtype.scalar, b.dtype.scalar):
            if precision == INPUT_PRECISION.TF32:
                a, b = _tf32(a), _tf32(b)
            return _stock_dot(self, a, b, acc, precision, *rest)
        product = np.matmul(_widened(a), _widened(b), dtype=acc.data.dtype)
        return Handle(product + acc.data, acc.dtype.scalar)

    def _cast(self: Builder, source: Handle, dtype: tl.dtype) -> Handle:
        if source.dtype.scalar != tl.float32 or dtype.scalar != tl.bfloat16:
            return _stock_cast(self, source, dtype)
        bits = np.ascontiguousarray(source.data).view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        halves = np.where(np.isnan(source.data), (bits >> 16) | 0x40, rounded)
        return Handle(halves.astype(np.uint16), tl.bfloat16)

    Builder.create_dot = _dot
    Builder.cast_impl = _cast


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run: "cuda", or "cpu" in the interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"
