"""Runs Python with a native module whose build for AMX is usable anywhere: emulated where the CPU has no AMX, and
its twin in plain C++, `amx_twin`, where it lacks AVX-512 too.

    emulated_amx.py examples/demo.py
    emulated_amx.py -m pytest -p no:faulthandler tests/test_ops_grouped_pointwise_conv.py

The arguments are Python's. The module is compiled into build/emulated_amx from the shipped sources, one of them
replaced, and only these runs see it. pytest's faulthandler has to be off: it takes the signal that the emulator needs.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import run_tests

import build_flags

ROOT = Path(build_flags.__file__).resolve().parent
FOLDER = ROOT / "build" / "emulated_amx"
REPLACED = {"csrc/core/instruction_sets.cpp": "csrc/tests/instruction_sets_with_amx.cpp"}
ADDED = [
    "csrc/tests/amx_decoder.cpp",
    "csrc/tests/amx_emulator.cpp",
    "csrc/tests/amx_twin_build.cpp",
]
SHIPPED = build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES + build_flags.PYTHON_SOURCES

# Python runs it before anything else, and finds the module in sys.modules when the package asks for it.
LOADER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("squeezebert_fast._native", {path!r})
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


def build() -> Path:
    """Compile what changed, link, and return the module."""
    import pybind11

    compiler, machine = os.environ.get("CXX", "g++"), platform.machine()
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    flag_files = [ROOT / "build_flags.py", ROOT / "csrc/build.ini"]
    shared = [*(ROOT / "csrc").rglob("*.h"), *flag_files, *(ROOT / s for s in REPLACED)]
    newest_shared = max(path.stat().st_mtime for path in shared)

    def compile_one(source: str) -> str:
        target = FOLDER / Path(source).with_suffix(".o")
        if not (
            target.exists() and target.stat().st_mtime > max(newest_shared, (ROOT / source).stat().st_mtime)
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = [*run_tests.flags_of(source, machine, compiler), "-fPIC", *includes]
            subprocess.run([compiler, *flags, "-c", source, "-o", str(target)], cwd=ROOT, check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [REPLACED.get(source, source) for source in SHIPPED] + ADDED))
    module = FOLDER / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    libraries = [f"-l{name}" for name in build_flags.LINUX_LIBRARIES]
    subprocess.run([compiler, "-shared", *objects, "-o", str(module), *libraries], check=True)
    return module


def main() -> None:
    loader = FOLDER / "loader"
    loader.mkdir(parents=True, exist_ok=True)
    (loader / "sitecustomize.py").write_text(LOADER.format(path=str(build())))
    path = os.pathsep.join([str(loader), str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], {**os.environ, "PYTHONPATH": path})


if __name__ == "__main__":
    main()
