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
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

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
    "squeezebert_fast.ray",
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
    """build_ext with flags for each file, by ninja; may fail unless required."""

    def run(self) -> None:
        mode = os.environ.get("SQUEEZEBERT_FAST_NATIVE", "auto")
        if mode not in ("auto", "require", "off"):
            raise SystemExit(f"SQUEEZEBERT_FAST_NATIVE is {mode!r}, expected one of auto, require, off")
        if mode == "off":
            return self.skip("SQUEEZEBERT_FAST_NATIVE=off")
        if self.editable_mode:
            # else objects are in a folder that pip removes, and each installation compiles all
            self.build_temp = str(Path("build", f"temp.{self.plat_name}-{sys.implementation.cache_tag}"))
        inplace = self.inplace  # setuptools changes it during a build, and doesn't restore it when that fails
        try:
            super().run()
        except (BaseError, CCompilerError, ImportError, OSError) as error:
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
        objects = self.compile_by_ninja(ext)
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=build_flags.LINUX_LIBRARIES if sys.platform.startswith("linux") else [],
            target_lang="c++",
            build_temp=self.build_temp,
        )

    def compile_by_ninja(self, ext: Extension) -> list[str]:
        """Compile what changed, each file with its own flags, and give the objects: ninja reads off the compiler which
        headers a file includes, and notices flags that are others than last time."""
        import ninja
        import pybind11
        from ninja.ninja_syntax import Writer, escape, escape_path

        compiler = shlex.join(self.compiler.compiler_cxx)
        build_file = Path(self.build_temp, "build.ninja")
        build_file.parent.mkdir(parents=True, exist_ok=True)
        objects = [str(Path(self.build_temp, f"{source}.o")) for source in ext.sources]
        with build_file.open("w", encoding="utf-8") as file:
            rules = Writer(file)
            rules.variable("builddir", escape_path(self.build_temp))  # where its own notes lie
            # Python's include folder and pybind11's, which an isolated build has elsewhere each time, for those that
            # include them: a changed command compiles anew.
            includes = [f"-I{folder}" for folder in (*self.include_dirs, pybind11.get_include())]
            command = escape(shlex.join(self.compiler.compiler_so_cxx))
            rules.rule(
                "compile",
                f"{command} -MMD -MF $out.d -c $in -o $out $flags",
                depfile="$out.d",
                deps="gcc",
                description="$in",
            )
            for source, made in zip(ext.sources, objects, strict=True):
                flags = build_flags.flags(source, target_machine(), compiler)
                flags = [*flags, *(includes if source in build_flags.PYTHON_SOURCES else [])]
                rules.build(
                    escape_path(made),
                    "compile",
                    escape_path(source),
                    variables={"flags": escape(shlex.join(flags))},
                )
        program = shutil.which("ninja", path=ninja.BIN_DIR) or "ninja"
        quiet = [] if self.distribution.verbose else ["--quiet"]
        command = [program, *quiet, "-j", str(os.cpu_count()), "-f", str(build_file)]
        if code := subprocess.run(command, check=False).returncode:
            raise CompileError(f"ninja ended with {code}")
        return objects


setup(
    packages=PACKAGES,
    # Top-level triton_kernels/ installs inside the package: the bare name belongs to another distribution.
    package_dir={"squeezebert_fast.triton_kernels": "triton_kernels"},
    package_data={"squeezebert_fast": ["py.typed", "_native.pyi", "models/sentiment/*", "serving/page.html"]},
    ext_modules=[Extension("squeezebert_fast._native", SOURCES, language="c++", depends=HEADERS)],
    cmdclass={"build_ext": BuildNative},
)
