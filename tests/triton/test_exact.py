"""Integers in, the one right result out: every kernel with every shipped tile (benchmarks/exact.py)."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from benchmarks.exact import BASE, SMALL, Case, Expected, Integers, Run, Sizes, poisoned, run_of, wrong
from benchmarks.exact_cases import cases

CASES = cases()
GPU = torch.cuda.is_available()
SIZES = BASE if GPU else SMALL


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_integers_come_out_exact_and_the_same_every_time(case: Case, device: str) -> None:
    assert wrong(case, SIZES, device, repeats=5 if GPU else 1) is None


@pytest.mark.slow  # a test of the test before
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_wrong_row_of_any_operand_would_show(case: Case, device: str) -> None:
    run = run_of(case, SIZES, device)
    results = [result.clone() for result in run.call(*run.inputs)]
    for operand in run.inputs:
        if operand.dtype is torch.int64:
            continue
        right = operand.clone()
        operand[0] = right[0].flatten().flip(0).view_as(right[0]) + 1
        faults = [e.fault(r) for e, r in zip(run.exact(*run.inputs), results, strict=True)]
        operand.copy_(right)
        assert any(faults), f"{list(operand.shape)}: the check sees no difference"


def test_a_result_with_other_bits_or_unwritten_memory_is_wrong() -> None:
    def fault(*results: Tensor) -> str | None:
        expected = Expected("y", torch.tensor([1.0, 2.0], dtype=torch.float64), rounded=True)
        turns = itertools.cycle(results)
        run = Run((), lambda: [next(turns)], lambda: [expected])

        def make(sizes: Sizes, integers: Integers) -> Run:
            return run

        return wrong(Case("a kernel", "none", torch.float32, make), SIZES, "cpu", len(results))

    right, near = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 2**-21])
    assert fault(right, right) is None
    assert fault(near, near) is None
    assert fault(right, near) == "run 2 has other bits than the first"
    assert fault(right, right + 1) == (
        "run 2, not the first: y: 2 of 2 values are wrong, the first at [0]: 2.0 in place of 1.0"
    )
    with poisoned():
        unwritten = torch.empty(2)
    assert "nan in place of 1.0" in str(fault(unwritten))
    assert "shape [1], expected [2]" in str(fault(right[:1]))
