"""Builds squeezebert_fast._native from csrc/. Everything else about the package is in pyproject.toml.

The same kernel sources are compiled once per instruction set, each into its own object file with its own
flags (csrc/build.ini), and linked into one module that picks among them at run time; so one wheel serves
every CPU of an architecture. Neither torch nor the build machine's CPU has a say in what is built.

SQUEEZEBERT_FAST_NATIVE: `auto` (default) installs as pure Python, and says so, when the module can't be
built; `require` makes that an error; `off` doesn't try.
"""

import os
import platform
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated build doesn't look beside setup.py

import build_flags

SOURCES = build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES + build_flags.PYTHON_SOURCES
HEADERS = [
    *sorted(str(p) for p in Path("csrc").rglob("*.h") if "tests" not in p.parts),
    "csrc/build.ini",
    "csrc/isa/builds.inc",
]

PACKAGES = [
    "squeezebert_fast",
    "squeezebert_fast.answering",
    "squeezebert_fast.backends",
    "squeezebert_fast.benchmark",
    "squeezebert_fast.cli",
    "squeezebert_fast.loading",
    "squeezebert_fast.modeling",
    "squeezebert_fast.ops",
    "squeezebert_fast.patching",
    "squeezebert_fast.patching.families",
    "squeezebert_fast.serving",
    "squeezebert_fast.storage",
    "squeezebert_fast.tables",
    "squeezebert_fast.tokenization",
    "squeezebert_fast.training",
    "squeezebert_fast.training.tasks",
    "squeezebert_fast.triton_kernels",
]


def target_machine() -> str:
    """What the module is for, as platform.machine() has it there. A cross build says it as Python's own build does:
    _PYTHON_HOST_PLATFORM=linux-aarch64 (tests/arm/build.py)."""
    return os.environ.get("_PYTHON_HOST_PLATFORM", platform.machine()).rpartition("-")[2]


class BuildNative(build_ext):
    """build_ext with flags for each file, files compiled side by side; may fail unless required."""

    def run(self) -> None:
        mode = os.environ.get("SQUEEZEBERT_FAST_NATIVE", "auto")
        if mode not in ("auto", "require", "off"):
            raise SystemExit(f"SQUEEZEBERT_FAST_NATIVE is {mode!r}, expected one of auto, require, off")
        if mode == "off":
            return self.skip("SQUEEZEBERT_FAST_NATIVE=off")
        inplace = self.inplace  # setuptools changes it during a build, and doesn't restore it when that fails
        try:
            super().run()
        except (BaseError, CCompilerError, OSError) as error:
            if mode == "require":
                raise
            self.inplace = inplace
            self.skip(f"{type(error).__name__}: {error}")

    def skip(self, reason: str) -> None:
        for extension in self.extensions:
            # An earlier build may have left one, of other sources: it would be installed as this one's.
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        self.extensions.clear()
        print(
            f"squeezebert_fast: installing without native kernels ({reason}). Every operation will run on "
            "plain PyTorch; `squeezebert-fast doctor` repeats this. SQUEEZEBERT_FAST_NATIVE=require makes "
            "it an error.",
            file=sys.stderr,
        )

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type != "unix":
            raise OSError(
                f"compiler type {self.compiler.compiler_type!r} is not supported, GCC or Clang is needed"
            )
        import pybind11

        ext.include_dirs.append(pybind11.get_include())
        compiler = shlex.join(self.compiler.compiler_cxx)
        temp = Path(self.build_temp)

        def compile_one(source: str) -> str:
            # An output folder a file: setuptools would otherwise reuse an object compiled with other flags.
            folder = temp / Path(source).parent.name / Path(source).stem
            objects = self.compiler.compile(
                [source],
                output_dir=str(folder),
                include_dirs=ext.include_dirs,
                extra_postargs=build_flags.flags(source, target_machine(), compiler),
                depends=ext.depends,
            )
            return objects[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, ext.sources))
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=build_flags.LINUX_LIBRARIES if sys.platform.startswith("linux") else [],
            target_lang="c++",
            build_temp=self.build_temp,
        )


setup(
    packages=PACKAGES,
    # Top-level triton_kernels/ installs inside the package: the bare name belongs to another distribution.
    package_dir={"squeezebert_fast.triton_kernels": "triton_kernels"},
    package_data={"squeezebert_fast": ["py.typed", "_native.pyi", "models/sentiment/*", "serving/page.html"]},
    ext_modules=[Extension("squeezebert_fast._native", SOURCES, language="c++", depends=HEADERS)],
    cmdclass={"build_ext": BuildNative},
)
