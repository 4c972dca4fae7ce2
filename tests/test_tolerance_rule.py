"""The tolerance rule itself: what it lets pass and what it finds."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import assert_within_rule

NAN, INF = float("nan"), float("inf")
EXACT = torch.tensor([[1.0, 2.0], [NAN, INF]], dtype=torch.float64)


def test_pytorchs_own_leak_of_a_nan_is_not_asked_of_us() -> None:
    leaked = torch.tensor([[1.0, NAN], [NAN, INF]])
    assert_within_rule(EXACT.float(), leaked, EXACT)


@pytest.mark.parametrize("value", [NAN, INF])
def test_our_own_leak_is_found_even_where_pytorch_has_the_same(value: float) -> None:
    leaked = torch.tensor([[1.0, value], [NAN, INF]])
    with pytest.raises(AssertionError, match="not finite"):
        assert_within_rule(leaked, leaked, EXACT)


def test_a_number_where_a_nan_belongs_is_found() -> None:
    with pytest.raises(AssertionError, match="not finite"):
        assert_within_rule(torch.tensor([[1.0, 2.0], [0.0, INF]]), EXACT.float(), EXACT)


def test_what_no_number_of_the_precision_holds_is_infinite_or_the_largest() -> None:
    exact = torch.tensor([1e5, -1e5, 1.0], dtype=torch.float64)
    for most in (INF, 65504.0):
        half = torch.tensor([most, -most, 1.0], dtype=torch.float16)
        assert_within_rule(half, half, exact)
    for wrong in ([100.0, -INF, 1.0], [INF, INF, 1.0], [NAN, -INF, 1.0]):
        half = torch.tensor(wrong, dtype=torch.float16)
        with pytest.raises(AssertionError, match="smaller than the exact result"):
            assert_within_rule(half, half, exact)
    with pytest.raises(AssertionError, match="error"):  # beside it, errors count as ever
        assert_within_rule(
            torch.tensor([INF, -INF, 1.1]).half(), torch.tensor([INF, -INF, 1.0]).half(), exact
        )


def test_twice_pytorchs_error_passes_and_more_is_found() -> None:
    exact, theirs = torch.ones(3, dtype=torch.float64), torch.ones(3)
    theirs[1] += 1e-3
    assert_within_rule(torch.tensor([1.0, 1.0, 1.002]), theirs, exact)
    with pytest.raises(AssertionError, match=r"error 0\.003"):
        assert_within_rule(torch.tensor([1.0, 1.0, 1.003]), theirs, exact)
