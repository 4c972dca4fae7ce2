"""`doctor` tells what this installation can do."""

from __future__ import annotations

import platform
from types import SimpleNamespace

import pytest
import torch

import squeezebert_fast
from squeezebert_fast.backends import assembler, cpu, triton


def test_versions_of_everything_that_matters_are_listed() -> None:
    report = squeezebert_fast.doctor()
    versions = dict(report.sections["versions"])
    assert versions["squeezebert_fast"] == squeezebert_fast.__version__
    assert versions["python"] == platform.python_version()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(versions) >= {
        "numpy",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "transformers",
        "triton",
    }


def test_every_operation_has_a_backend_and_a_reason() -> None:
    sections = squeezebert_fast.doctor().sections
    for dtype in ("float32", "bfloat16"):
        rows = dict(sections[f"operations on cpu, {dtype}"])
        assert set(rows) == {
            "grouped_pointwise_conv",
            "qkv_projection",
            "grouped_mlp",
            "attention",
            "add_layer_norm",
            "dropout",
        }
        assert all("(" in value for value in rows.values())
        assert rows["grouped_mlp"] == rows["grouped_pointwise_conv"]
        assert len(set(rows.values())) == 1  # they come together


@pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")
def test_the_native_module_and_its_builds_are_listed() -> None:
    sections = squeezebert_fast.doctor().sections
    rows = dict(sections["CPU"])
    assert rows["native module"] == "loaded"
    assert rows["kernel builds usable here"].split(", ") == cpu.instruction_sets()
    assert rows["kernel build in use"] == cpu.instruction_set()
    assert rows["threads come from"]
    bfloat16 = dict(sections["operations on cpu, bfloat16"])["grouped_pointwise_conv"]
    assert bfloat16 == dict(sections["operations on cpu, float32"])["grouped_pointwise_conv"]


def test_a_missing_native_module_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_native", None)
    monkeypatch.setattr(cpu, "_import_error", "No module named '_native'")
    monkeypatch.setattr(cpu, "_chosen", None)
    report = squeezebert_fast.doctor()
    missing = "the native module is not built (No module named '_native'); reinstall with a C++ compiler"
    assert dict(report.sections["CPU"])["native module"] == missing
    choice = dict(report.sections["operations on cpu, float32"])["grouped_pointwise_conv"]
    assert choice == f"reference (cpu: {missing})"


def test_a_wrong_instruction_set_is_told_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu.instruction_sets():
        pytest.skip("the native module is not built")
    monkeypatch.setattr(cpu, "_chosen", None)
    monkeypatch.setenv(cpu.ISA_VARIABLE, "mmx")
    report = squeezebert_fast.doctor()
    expected = f"error: SQUEEZEBERT_FAST_ISA is 'mmx'; usable here: {', '.join(cpu.instruction_sets())}"
    assert dict(report.sections["CPU"])["kernel build in use"] == expected


def test_why_amx_cant_be_used_is_told_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu.instruction_sets():
        pytest.skip("the native module is not built")
    monkeypatch.setattr(cpu._native, "amx_refusal", lambda: "the kernel said no")
    assert dict(squeezebert_fast.doctor().sections["CPU"])["AMX"] == "can't be used: the kernel said no"
    monkeypatch.setattr(cpu._native, "amx_refusal", lambda: "")
    assert "AMX" not in dict(squeezebert_fast.doctor().sections["CPU"])


def test_the_report_is_text_in_aligned_columns() -> None:
    report = squeezebert_fast.doctor()
    lines = str(report).splitlines()
    assert lines[0] == "versions"
    values = [line for line in lines if line.startswith("  ")]
    assert len(values) == sum(len(rows) for rows in report.sections.values())
    assert all(title in lines for title in report.sections)
    column = max(len(name) for rows in report.sections.values() for name, _ in rows) + 3
    assert all(line[column] == " " and line[column + 1] != " " for line in values)


@pytest.mark.parametrize("known", [False, True])
def test_a_gpu_whose_shared_memory_torch_does_not_know_is_told(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(**({"shared_memory_per_block_optin": 227 * 1024} if known else {}))
    of_cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda index: "a GPU",
        "get_device_capability": lambda index: (9, 0),
        "get_device_properties": lambda index: properties,
    }
    for name, value in of_cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(triton, "unavailable", lambda device: None)
    monkeypatch.setattr(assembler, "described", lambda capability: "ptxas 13.4")
    rows = dict(squeezebert_fast.doctor().sections["GPU"])
    assert ("shared memory of cuda:0" in rows) is not known
    if not known:
        assert "48 KB are assumed" in rows["shared memory of cuda:0"]
