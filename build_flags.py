"""How the C++ under csrc/ is compiled: which files, with which flags.

For setup.py and csrc/tests/run_tests.py alike, so that the tests run what is shipped. It needs the standard
library alone, since pip's isolated build imports it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent

CORE_SOURCES = [
    "csrc/core/activation.cpp",
    "csrc/core/add_layer_norm.cpp",
    "csrc/core/attention.cpp",
    "csrc/core/cpu_features.cpp",
    "csrc/core/dropout.cpp",
    "csrc/core/embeddings.cpp",
    "csrc/core/encoder/mask.cpp",
    "csrc/core/encoder/pack.cpp",
    "csrc/core/encoder/passes.cpp",
    "csrc/core/encoder/run.cpp",
    "csrc/core/encoder/scratch.cpp",
    "csrc/core/feed_forward_chunks.cpp",
    "csrc/core/fingerprint.cpp",
    "csrc/core/grouped_mlp.cpp",
    "csrc/core/grouped_mlp_backward.cpp",
    "csrc/core/grouped_pointwise_conv.cpp",
    "csrc/core/instruction_sets.cpp",
    "csrc/core/packed_segments.cpp",
    "csrc/core/rates.cpp",
    "csrc/core/thread_team.cpp",
    "csrc/core/weight_gradient.cpp",
    "csrc/core/workspace.cpp",
]
_TABLE = (ROOT / "csrc/isa/builds.inc").read_text(encoding="utf-8")
BUILDS = list(dict.fromkeys(re.findall(r"^BUILD\((\w+),", _TABLE, re.MULTILINE)))  # a build may have two rows
INSTRUCTION_SET_SOURCES = [f"csrc/isa/{build}.cpp" for build in BUILDS]
PYTHON_SOURCES = ["csrc/python/bindings.cpp", "csrc/python/training_bindings.cpp", "csrc/python/watch.cpp"]

COMMON_FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-g0", "-fvisibility=hidden", "-fno-math-errno"]
# Whatever Python's own flags say: link-time optimisation could move wide code into what runs on every CPU.
COMMON_FLAGS += ["-fno-lto", "-Wall", "-Wextra"]

# What csrc/isa/NAME.cpp gets beside the common flags. Never -march=native: a build must not depend on where
# it was made.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"]
X86_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx2_vnni": ["-mavx2", "-mfma", "-mavxvnni"],
    "avx512": AVX512,
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
    "avx512_bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
    "avx512_amx": [
        *AVX512,
        "-mavx512vnni",
        "-mavx512bf16",
        "-mamx-tile",
        "-mamx-bf16",
        "-mamx-int8",
    ],
}
AARCH64_FLAGS = {
    "neon_dotprod": ["-march=armv8.2-a+dotprod"],
    "neon_i8mm": ["-march=armv8.2-a+dotprod+i8mm+bf16"],
}
# The sources say which multiply-adds are fused. A compiler that fuses more (plain C++ on AArch64) does so in
# one loop and not in another, and a token's bits would depend on the tile it is in.
# Nothing in them throws. For a destructor (it releases the tiles) to run where something does, the compiler would add
# code, tables and a weak symbol, of which the linker keeps one copy for all files.
KERNEL_FLAGS = ["-ffp-contract=off", "-fno-exceptions"]
# Before register allocation, GCC's scheduler hoists so many loads that sums spill to the stack at every step
# of K (NEON). With a region for each loop, its allocator moves some sums back and forth at every step where the
# multiply-add is assembly (int8). Its AVX-512 header trips its own warning about uninitialised variables. Clang
# knows none of these flags but the last two.
GCC_KERNEL_FLAGS = [
    "-fno-schedule-insns",
    "-fira-region=all",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
]

LINUX_LIBRARIES = ["dl", "pthread"]


def is_x86_64(machine: str) -> bool:
    """Whether `machine`, as platform.machine() names it, takes X86_FLAGS."""
    return machine.lower() in ("x86_64", "amd64")


def is_aarch64(machine: str) -> bool:
    """Whether `machine`, as platform.machine() names it, takes AARCH64_FLAGS."""
    return machine.lower() in ("aarch64", "arm64")


@lru_cache
def is_gcc(compiler: str) -> bool:
    """Whether the command `compiler` takes GCC's flags: anything does that doesn't call itself Clang."""
    command = [*shlex.split(compiler), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=False)
    return "clang" not in version.stdout


@lru_cache
def known(flags: tuple[str, ...], compiler: str) -> list[str]:
    """`flags`, or none where `compiler` doesn't know them all."""
    command = [*shlex.split(compiler), *flags, "-E", "-x", "c++", os.devnull]
    return list(flags) if subprocess.run(command, capture_output=True, check=False).returncode == 0 else []


def flags(source: str, machine: str, compiler: str) -> list[str]:
    """Every flag that says how `compiler` makes the file `source` for `machine`.

    `compiler` is a command as a shell takes it: `ccache g++` has two words. A file of csrc/isa/ whose instruction set
    the compiler doesn't know gets none of its flags, and is empty then.
    """
    path = Path(source)
    if path.parent.name != "isa":
        return COMMON_FLAGS
    of_compiler = GCC_KERNEL_FLAGS if is_gcc(compiler) else []
    table = X86_FLAGS if is_x86_64(machine) else AARCH64_FLAGS if is_aarch64(machine) else {}
    return COMMON_FLAGS + KERNEL_FLAGS + of_compiler + known(tuple(table.get(path.stem, ())), compiler)
