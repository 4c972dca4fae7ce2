"""Compiles the C++ tests with the flags of the shipped build, and runs them. Needs no Python package.

    run_tests.py              for this machine: every build of the kernels that it can run
    run_tests.py --sanitize   the same under AddressSanitizer and UndefinedBehaviorSanitizer
    run_tests.py --arm        for AArch64, on emulated CPUs of three ages; checks the inner loop's code too

Other arguments go to the tests (`--test-case=...`, `--list-test-cases`: doctest's). CXX names the compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import inner_loop

import build_flags

ROOT = Path(build_flags.__file__).resolve().parent
TEST_SOURCES = [
    "csrc/tests/main.cpp",
    "csrc/tests/support.cpp",
    "csrc/tests/test_activations.cpp",
    "csrc/tests/test_grouped_pointwise_conv.cpp",
    "csrc/tests/test_instruction_sets.cpp",
    "csrc/tests/test_thread_team.cpp",
]
SOURCES = build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES + TEST_SOURCES

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g1"]

ARM_COMPILER = "aarch64-linux-gnu-g++"
ARM_EMULATOR = "qemu-aarch64-static"
ARM_PACKAGES = ["g++-aarch64-linux-gnu", "qemu-user-static"]
ARM_LIBRARIES = "/usr/aarch64-linux-gnu"
# Emulated CPUs, and what of csrc/core/cpu_features.h each has: wrong dispatch ends in an illegal instruction.
ARM_CPUS = {
    "cortex-a72": "neon",
    "cortex-a76": "neon neon_dotprod",
    "max": "neon neon_dotprod neon_i8mm neon_bf16",
}


@dataclass
class Variant:
    name: str
    compiler: str
    machine: str
    extra_flags: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return ROOT / "build" / "cpp_tests" / self.name

    def object_of(self, source: str) -> Path:
        return self.folder / Path(source).with_suffix(".o")


def build(variant: Variant) -> Path:
    """Compile what changed, link, and return the program."""
    gcc = build_flags.is_gcc(variant.compiler)
    shared = [*(ROOT / "csrc").rglob("*.h"), ROOT / "build_flags.py", Path(__file__)]
    newest_shared = max(path.stat().st_mtime for path in shared)

    def compile_one(source: str) -> Path:
        target = variant.object_of(source)
        if target.exists() and target.stat().st_mtime > max(newest_shared, (ROOT / source).stat().st_mtime):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = build_flags.flags(source, variant.machine, gcc)
        if source in TEST_SOURCES:  # plain loops stay fast enough, and doctest's macros compile sooner
            flags = [*flags, "-O1"]
        run([variant.compiler, *flags, *variant.extra_flags, "-c", source, "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compile_one, SOURCES)]
    program = variant.folder / "kernel_tests"
    libraries = [f"-l{name}" for name in build_flags.LINUX_LIBRARIES]
    run([variant.compiler, *variant.extra_flags, *objects, "-o", str(program), *libraries])
    return program


def run(command: list[str], **environment: str) -> None:
    """Run from the repository's root; end with the command's own message and exit status if it fails."""
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
    if result.returncode != 0:
        print(f"failed with {result.returncode}: {' '.join(command)}", file=sys.stderr)
        sys.exit(result.returncode if result.returncode > 0 else 1)


def require_arm_tools() -> None:
    """Find the cross-compiler and the emulator; install them where that is possible without asking."""
    if shutil.which(ARM_COMPILER) and shutil.which(ARM_EMULATOR):
        return
    packages = " ".join(ARM_PACKAGES)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"--arm needs {ARM_COMPILER} and {ARM_EMULATOR}: apt-get install {packages}")
    print(f"installing {packages}", flush=True)
    run(["apt-get", "-qq", "update"])
    command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *ARM_PACKAGES]
    run(command, DEBIAN_FRONTEND="noninteractive")


def test_arm(test_arguments: list[str]) -> None:
    require_arm_tools()
    variant = Variant("aarch64", ARM_COMPILER, "aarch64")
    program = build(variant)
    inner_loop.check(variant.object_of("csrc/isa/neon.cpp"), "tile_f32<8, 3>", multiply_adds=24)
    for cpu, features in ARM_CPUS.items():
        print(f"{cpu}:", flush=True)
        command = [ARM_EMULATOR, "-cpu", cpu, "-L", ARM_LIBRARIES, str(program), *test_arguments]
        run(command, SQUEEZEBERT_TEST_CPU_FEATURES=features)


def test_here(test_arguments: list[str], sanitize: bool) -> None:
    compiler, machine = os.environ.get("CXX", "g++"), platform.machine()
    variant = Variant(f"{machine}-{Path(compiler).name}", compiler, machine)
    if sanitize:
        variant = Variant(f"{variant.name}-sanitized", compiler, machine, SANITIZERS)
    run([str(build(variant)), *test_arguments])


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sanitize", action="store_true")
    which.add_argument("--arm", action="store_true")
    arguments, test_arguments = parser.parse_known_args()
    if arguments.arm:
        test_arm(test_arguments)
    else:
        test_here(test_arguments, arguments.sanitize)


if __name__ == "__main__":
    main()
