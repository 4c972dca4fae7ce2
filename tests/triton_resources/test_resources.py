"""Every shipped kernel compiled for GPUs that aren't there: no spills, tensor cores in use, shared memory in bounds.

    python -m pytest tests/triton_resources

In a process of its own, without TRITON_INTERPRET: a plain `pytest` doesn't come here (`norecursedirs` in
pyproject.toml).
"""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch

from benchmarks.triton_compiled import compiled, recorded
from benchmarks.triton_resources import Case, cases, check, failures
from squeezebert_fast import triton_kernels
from squeezebert_fast.triton_kernels import probe

COMPILED = [(case, arch) for case in cases() for arch in case.tested if arch >= case.least_arch]


@pytest.mark.parametrize(
    ("case", "arch"), COMPILED, ids=[f"{case.name} sm_{arch}" for case, arch in COMPILED]
)
def test_no_spills_and_tensor_cores(case: Case, arch: int) -> None:
    for kernel, use, wrong in check(case, arch):
        assert not wrong, f"{kernel}: {', '.join(wrong)}; {use}"


def test_every_launch_asks_for_fused_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """From triton 3.10 on a launch that doesn't ask has a multiplication and an addition for each of them."""
    monkeypatch.setattr(torch, "equal", lambda a, b: True)  # the probe has no result to look at
    asked = {}
    with recorded() as launches:
        for case in cases():
            case.call()
        probe.run(torch.device("meta"))
    for launch in launches:
        asked[launch.kernel.__name__] = launch.options.get("enable_fp_fusion", False)
    assert asked == dict.fromkeys(all_kernels(), True)
    assert compiled(launches[-1], 90).metadata.enable_fp_fusion


def all_kernels() -> set[str]:
    """The names of what host functions launch, in every module of triton_kernels."""
    modules = [
        importlib.import_module(f"{triton_kernels.__name__}.{info.name}")
        for info in pkgutil.iter_modules(triton_kernels.__path__)
    ]
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}


GOOD = {
    **{
        "REG": 200,
        "STACK": 0,
        "SHARED": 1000,
        "HGMMA": 4,
        "IGMMA": 0,
        "HMMA": 0,
        "IMMA": 0,
        "LDL": 0,
        "STL": 0,
    },
    **{"COPIES": 8, "TWO_BYTES": 1, "WAITS": 2, "REGISTERS": 4, "OUTLIVING": 0, "DISTURBING": 0},
}
WRONG = [
    (90, {"STL": 1}, "spills"),
    (90, {"HGMMA": 0, "HMMA": 4}, "no wgmma"),
    (80, {"HGMMA": 0}, "no tensor cores"),
    (80, {"SHARED": 200_000}, "shared memory above 166912"),
    (90, {"TWO_BYTES": 16}, "loads of two bytes"),
    (90, {"COPIES": 0}, "no asynchronous copies"),
    (90, {"REG": 255}, "so many registers that nvdisasm can't say which of them products read"),
    (90, {"DISTURBING": 1}, "registers of a product are touched before it is waited for"),
    (
        90,
        {"OUTLIVING": 1},
        "a product with A in registers outlives a wait, which ptxas before 13.3 gets wrong",
    ),
]


@pytest.mark.parametrize(("arch", "change", "expected"), WRONG, ids=[row[2] for row in WRONG])
def test_what_is_wrong_with_a_kernel_is_noticed(arch: int, change: dict[str, int], expected: str) -> None:
    case, options = Case("a product", lambda: None), {"num_warps": 4, "num_stages": 3}
    assert failures(GOOD, case, options, 90) == []
    assert failures(GOOD | change, case, options, arch) == [expected]


def test_what_is_no_fault_passes() -> None:
    case, options = Case("a product", lambda: None), {"num_warps": 4, "num_stages": 3}
    assert failures(GOOD | {"HGMMA": 0, "HMMA": 4}, case, options, 80) == []
    assert failures(GOOD | {"COPIES": 0}, case, options | {"num_stages": 1}, 90) == []
    masked = Case("attention", lambda: None, masked=True)
    assert failures(GOOD | {"TWO_BYTES": 32}, masked, options, 90) == []
