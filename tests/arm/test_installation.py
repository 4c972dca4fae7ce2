"""What the package finds on the emulated CPU: the right builds, by what the kernel says the CPU has."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path

import pytest
import torch

import squeezebert_fast
from squeezebert_fast.backends import cpu
from tests.cli_helpers import succeeds

SHIPPED = Path(squeezebert_fast.__file__).parent
CPU = os.environ["SQUEEZEBERT_TEST_CPU"]
BEST_BUILD = {"cortex-a72": "neon", "cortex-a76": "neon_dotprod", "max": "neon_i8mm"}


def test_what_runs_is_the_cross_built_package() -> None:
    assert platform.machine() == "aarch64"
    assert (SHIPPED.parent.name, SHIPPED.parents[1].name) == ("package", "arm_python")
    assert cpu.native_module_missing() is None


def test_the_best_build_for_the_cpu_is_chosen() -> None:
    assert cpu.instruction_set() == cpu.instruction_sets()[0] == BEST_BUILD[CPU]
    assert cpu.instruction_sets()[-2:] == ["neon", "scalar"]


def test_doctor_says_what_is_there() -> None:
    report = str(squeezebert_fast.doctor())
    assert re.search(r"machine +aarch64", report)
    assert re.search(r"native module +loaded", report)
    assert re.search(rf"kernel build in use +{BEST_BUILD[CPU]}\n", report)
    assert (
        len(re.findall(r"cpu \(the first choice here\)", report)) == 12
    )  # operations in float32 and bfloat16


def test_threads_are_those_of_torch_s_own_openmp() -> None:
    assert "libgomp" in cpu._native.thread_runtime()
    assert Path(torch.__file__).parent.parent.name in cpu._native.thread_runtime()


def test_the_command_line_predicts(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.write_text("Best pizza I have had in years, and the price was fair.\nA waste of time.\n")
    rows = [json.loads(line) for line in succeeds("predict", texts).splitlines()]
    assert [row["label"] for row in rows] == ["positive", "negative"]


@pytest.mark.parametrize("build", cpu.instruction_sets())
def test_units_multiply_at_some_rate(build: str) -> None:
    """The kernels' own limit runs: emulated, it is no measurement."""
    with cpu.use_instruction_set(build):
        for precision in cpu.PRECISIONS:
            assert cpu.multiply_add_rate(precision, 1, 0.001) > 0
