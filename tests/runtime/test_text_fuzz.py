"""What fuzzing starts from, and what it once found, goes through the targets under the sanitizers, without clang."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import build_flags
from tests.runtime.text_library import ROOT, SOURCES

pytestmark = pytest.mark.slow

CORPUS = ROOT / "csrc" / "fuzz" / "corpus"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g1"]
TEXT = [
    str(source.relative_to(ROOT)) for source in SOURCES if source.is_relative_to(ROOT / "csrc" / "runtime")
]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The text side, compiled by whatever compiler there is."""
    compiler = compiler_here()
    folder = tmp_path_factory.mktemp("fuzz")
    made = []
    for source in ["csrc/fuzz/support.cpp", "csrc/fuzz/replay.cpp", *TEXT]:
        made.append(str(folder / f"{source.replace('/', '_')}.o"))
        compiled([*compiler, *SANITIZERS, "-std=c++17", "-c", source, "-o", made[-1]])
    return made


def compiler_here() -> list[str]:
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None or not build_flags.known(tuple(SANITIZERS), shlex.join(compiler)):
        pytest.skip(f"needs a C++ compiler with sanitizers, {compiler[0]}")
    return compiler


def compiled(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("target", ["json", "text", "tokenizer_files"])
def test_every_input_of_the_corpus_is_answered(target: str, objects: list[str], tmp_path: Path) -> None:
    program = str(tmp_path / target)
    source = f"csrc/fuzz/{target}.cpp"
    compiled([*compiler_here(), *SANITIZERS, "-std=c++17", source, *objects, "-o", program])
    inputs = sorted(map(str, (CORPUS / target).iterdir()))
    assert inputs
    result = subprocess.run([program, *inputs], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
