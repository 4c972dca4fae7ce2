"""float32 products where PyTorch's flag allows tf32 run on tensor cores, and spill nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.triton_resources import Case, cases, check

PRODUCTS = [case for case in cases() if "fp32" in case.name and "norm" not in case.name]


@pytest.fixture(autouse=True)
def tf32_allowed() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    yield
    matmul.fp32_precision = before


@pytest.mark.parametrize("case", PRODUCTS, ids=[case.name for case in PRODUCTS])
def test_tensor_cores_multiply_in_tf32(case: Case) -> None:
    # their tiles are for multiplying without tensor cores, not all wide enough for wgmma
    for kernel, use, wrong in check(replace(case, product=True, rows=16), 90):
        assert not wrong, f"{kernel}: {', '.join(wrong)}; {use}"
