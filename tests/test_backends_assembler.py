"""Which ptxas makes the machine code of Triton's kernels, and which of them isn't trusted with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from squeezebert_fast.backends import assembler
from tests.test_backends import run_python

HOPPER = (9, 0)


def set_version(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(assembler, "version", lambda capability: version)


@pytest.mark.parametrize("version", ["13.3.33", "13.4.59", "14.0.1"])
def test_a_mended_ptxas_is_trusted(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    set_version(monkeypatch, version)
    assert assembler.refusal(HOPPER) is None
    assert assembler.described(HOPPER) == f"ptxas {version}"


@pytest.mark.parametrize("release", assembler.CHECKED)
def test_a_checked_ptxas_is_trusted_and_doctor_says_why(
    monkeypatch: pytest.MonkeyPatch, release: tuple[int, int]
) -> None:
    assert release < assembler.MENDED
    version = "{}.{}.93".format(*release)
    set_version(monkeypatch, version)
    assert assembler.refusal(HOPPER) is None
    assert assembler.described(HOPPER) == (
        f"ptxas {version}, before 13.3: the kernels' machine code is checked with this release"
    )


@pytest.mark.parametrize("version", ["11.8.89", "12.3.107"])
def test_an_older_ptxas_that_no_one_checked_is_refused_where_it_matters(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    set_version(monkeypatch, version)
    reason = assembler.refusal(HOPPER)
    assert reason is not None
    for part in (f"ptxas {version}", "checked with 12.8, 12.9", "triton 3.9", "TRITON_PTXAS_PATH"):
        assert part in reason
    for capability in ((8, 0), (8, 9), (10, 0), (12, 0)):
        assert assembler.refusal(capability) is None
        assert assembler.described(capability) == f"ptxas {version}"


def test_without_an_assembler_the_probe_is_left_to_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    set_version(monkeypatch, None)
    assert assembler.refusal(HOPPER) is None
    assert assembler.described(HOPPER) == "ptxas of an unknown version"


def test_the_version_is_that_of_the_file_that_triton_runs() -> None:
    compiler = pytest.importorskip("triton.backends.nvidia.compiler")
    for capability in ((8, 0), HOPPER):
        path = compiler.get_ptxas(capability[0] * 10 + capability[1]).path
        printed = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
        version = assembler.version(capability)
        assert version is not None
        assert f"V{version}" in printed.splitlines()[-2]


def test_a_ptxas_named_by_the_environment_counts(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    path = tmp_path / "ptxas"
    path.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.3, V12.3.107'\n")
    path.chmod(0o755)
    done = run_python(
        "from squeezebert_fast.backends import assembler\n"
        "print(assembler.version((9, 0)), assembler.refusal((9, 0)) is None)",
        TRITON_PTXAS_PATH=str(path),
        TRITON_PTXAS_BLACKWELL_PATH=str(path),
    )
    assert done.stdout == "12.3.107 False\n", done.stderr


def test_a_triton_without_ptxas_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = pytest.importorskip("triton.backends.nvidia.compiler")

    def missing(arch: int) -> str:
        raise RuntimeError("Cannot find ptxas")

    monkeypatch.setattr(compiler, "get_ptxas_version", missing)
    assert assembler.version(HOPPER) is None
    monkeypatch.setattr(compiler, "get_ptxas_version", lambda arch: "86")  # TRITON_MOCK_PTX_VERSION
    assert assembler.version(HOPPER) is None
