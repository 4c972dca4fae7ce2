"""Every shipped kernel compiled for GPUs that aren't there: no spills, tensor cores in use, shared memory in bounds.

    python -m pytest tests/triton_resources

In a process of its own, without TRITON_INTERPRET: a plain `pytest` doesn't come here (`norecursedirs` in
pyproject.toml).
"""

from __future__ import annotations

import pytest

from benchmarks.triton_resources import Case, cases, check, failures

COMPILED = [(case, arch) for case in cases() for arch in case.tested if arch >= case.least_arch]


@pytest.mark.parametrize(
    ("case", "arch"), COMPILED, ids=[f"{case.name} sm_{arch}" for case, arch in COMPILED]
)
def test_no_spills_and_tensor_cores(case: Case, arch: int) -> None:
    for kernel, use, wrong in check(case, arch):
        assert not wrong, f"{kernel}: {', '.join(wrong)}; {use}"


def test_a_spill_and_a_missing_tensor_core_are_noticed() -> None:
    case = Case("a product", lambda: None)
    good = {
        "REG": 200,
        "STACK": 0,
        "SHARED": 1000,
        "HGMMA": 4,
        "IGMMA": 0,
        "HMMA": 0,
        "IMMA": 0,
        "LDL": 0,
        "STL": 0,
    }
    assert failures(good, case, 4, 90) == []
    assert failures(good | {"STL": 1}, case, 4, 90) == ["spills"]
    assert failures(good | {"HGMMA": 0, "HMMA": 4}, case, 4, 90) == ["no wgmma"]
    assert failures(good | {"HGMMA": 0, "HMMA": 4}, case, 4, 80) == []
    assert failures(good | {"HGMMA": 0}, case, 4, 80) == ["no tensor cores"]
    assert failures(good | {"SHARED": 200_000}, case, 4, 80) == ["shared memory above 166912"]
