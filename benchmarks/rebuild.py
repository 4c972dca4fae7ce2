"""How much of the native module an edit compiles, and how long that takes.

    python -m benchmarks.rebuild --out benchmarks/results

In a copy of the sources, `python setup.py build_ext --inplace` compiles everything, then what is left to do after each
of EDITS was touched, and after nothing was. Setuptools by itself would compile all files for each of these edits, one
after the other. Ten minutes or more on two cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import build_flags
from benchmarks.command import about, exit_with, parser_for, prepare
from benchmarks.report import write_json

EVERYTHING, NOTHING = "everything, at first", "nothing"
EDITS = (
    "csrc/core/pooling.cpp",
    "csrc/core/scratch.h",
    "csrc/isa/avx2.cpp",
    "csrc/kernels/attention.h",
)
READ = (
    "csrc",
    "squeezebert_fast",
    "triton_kernels",
    "setup.py",
    "build_flags.py",
    "pyproject.toml",
    "README.md",
)
"""What a build reads."""


@dataclass(frozen=True)
class Build:
    """What an edit led to."""

    edit: str
    compiled: int
    seconds: float


def copied(folder: Path) -> Path:
    """The sources, in a folder of their own, without what was built of them."""
    built = shutil.ignore_patterns("__pycache__", "*.so")
    for name in READ:
        source = build_flags.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=built, symlinks=True)
        else:
            shutil.copy(source, folder / name)
    return folder


def built(folder: Path, edit: str) -> Build:
    """Build, and count the files that ninja says it compiled. Raises CalledProcessError where that fails."""
    environment = {**os.environ, "SQUEEZEBERT_FAST_NATIVE": "require"}
    begin = time.perf_counter()
    said = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - begin
    return Build(edit, len(re.findall(r"\[\d+/\d+\] csrc/", said.stdout)), seconds)


def main() -> None:
    parser = parser_for("rebuild", __doc__, None)
    chosen = parser.parse_args()
    prepare(chosen)
    measured = about("rebuild", None)
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        builds = [built(folder, EVERYTHING), built(folder, NOTHING)]
        for edit in EDITS:
            (folder / edit).touch()
            builds.append(built(folder, edit))
            print(builds[-1])
    write_json(chosen.out / "rebuild.json", measured | {"builds": [asdict(each) for each in builds]})


if __name__ == "__main__":
    exit_with(main)
