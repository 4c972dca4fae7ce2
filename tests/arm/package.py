"""The package cross-compiled for AArch64 by its own setup.py, with the flags that a build there would have."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from environment import PYTHON, TRIPLET, byte_compile

ROOT = Path(__file__).resolve().parents[2]
BUILD_FILES = ("setup.py", "build_flags.py", "pyproject.toml")


def build(environment: Path, folder: Path) -> Path:
    """The folder that has the package, for PYTHONPATH. The module is compiled again if a source is newer."""
    module = folder / f"native/squeezebert_fast/_native.cpython-311-{TRIPLET}.so"
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".h", ".inc", ".ini")]
    newest = max(path.stat().st_mtime for path in [*sources, *(ROOT / name for name in BUILD_FILES)])
    if not module.exists() or module.stat().st_mtime < newest:
        print("cross-compiling the package", flush=True)
        setup(environment, "build_ext", f"--build-temp={folder / 'temp'}", f"--build-lib={folder / 'native'}")
    package = folder / "package"
    shutil.rmtree(package, ignore_errors=True)
    setup(environment, "build_py", f"--build-lib={package}")
    shutil.copy(module, package / "squeezebert_fast")
    byte_compile([package])
    return package


def setup(environment: Path, *arguments: str) -> None:
    """setup.py as Python's own cross builds run it: the target's configuration, this machine's interpreter."""
    include = environment / "root/usr/include"
    compiler = ["-isystem", str(include / PYTHON), "-isystem", str(include)]
    settings = {
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "_PYTHON_SYSCONFIGDATA_NAME": f"_sysconfigdata__{TRIPLET}",
        "PYTHONPATH": str(environment / "sysconfig"),
        "CC": f"{TRIPLET}-gcc",
        "CXX": shlex.join([f"{TRIPLET}-g++", *compiler]),
        "SQUEEZEBERT_FAST_NATIVE": "require",
    }
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        sys.exit(f"{result.stdout}{result.stderr}\nsetup.py {arguments[0]} failed with {result.returncode}")
