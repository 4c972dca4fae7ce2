"""float32 products where PyTorch's flag allows tf32: by a GPU's tensor cores, or as conftest has the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.exact import BASE, SMALL, Case, wrong
from benchmarks.exact_cases import cases
from squeezebert_fast.ops import reference
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import grouped_pointwise_conv
from squeezebert_fast.triton_kernels.launching import precision
from tests.triton.helpers import Random

SIZES = BASE if torch.cuda.is_available() else SMALL
PRODUCTS = [
    case
    for case in cases()
    if case.dtype is torch.float32
    and "int8" not in case.name
    and "norm, with" not in case.name
    and case.kernel != "attention_backward"  # whose operands, a third or a 64th of a number, have more bits
]


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    yield
    matmul.fp32_precision = before


@pytest.mark.usefixtures("tf32_allowed")
@pytest.mark.parametrize("case", PRODUCTS, ids=[case.name for case in PRODUCTS])
def test_small_integers_are_exact_in_tf32_too(case: Case, device: str) -> None:
    assert precision(torch.float32) == "tf32"
    assert wrong(case, SIZES, device, repeats=1) is None


def test_products_are_rounded_to_tf32_where_that_is_allowed_only(
    device: str, request: pytest.FixtureRequest
) -> None:
    random = Random(device, torch.float32)
    arguments = random(40, 192), random(96, 96, 1), None, 2
    exact = reference.grouped_pointwise_conv(*(t.double() for t in arguments[:2]), None, 2)

    def error() -> float:
        actual = grouped_pointwise_conv(*arguments).double()
        return float((actual - exact).norm() / exact.norm())

    assert error() < 1e-6
    request.getfixturevalue("tf32_allowed")
    assert 1e-5 < error() < 2.0**-10, "operands have 11 bits each"
