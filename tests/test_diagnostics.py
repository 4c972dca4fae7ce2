"""`doctor` tells what this installation can do."""

from __future__ import annotations

import platform

import pytest
import torch

import squeezebert_fast
from squeezebert_fast.backends import cpu


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


def test_the_report_is_text_in_aligned_columns() -> None:
    report = squeezebert_fast.doctor()
    lines = str(report).splitlines()
    assert lines[0] == "versions"
    values = [line for line in lines if line.startswith("  ")]
    assert len(values) == sum(len(rows) for rows in report.sections.values())
    assert all(title in lines for title in report.sections)
    column = max(len(name) for rows in report.sections.values() for name, _ in rows) + 3
    assert all(line[column] == " " and line[column + 1] != " " for line in values)
