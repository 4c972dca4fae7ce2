"""Compiles the C++ tests with the flags of the shipped build, and runs them. Needs no Python package.

    run_tests.py                     for this machine: every build of the kernels that it can run; of x86-64's, by GCC,
                                     checks inner loops too
    run_tests.py --sanitize          every few shapes under AddressSanitizer and UndefinedBehaviorSanitizer
    run_tests.py --thread-sanitizer  what runs on several threads, under ThreadSanitizer
    run_tests.py --valgrind          every few shapes under memcheck, on a build that it can run
    run_tests.py --amx               on the build for AMX: where the CPU has none, emulated; then every few shapes
                                     under the sanitizers, which so check what tiles load and store
    run_tests.py --arm               for AArch64, on emulated CPUs; checks instructions and inner loops too
    run_tests.py --arm-tools         no test: installs the compiler and the emulator that --arm needs

Other arguments go to the tests (`--test-case=...`, `--list-test-cases`: doctest's). CXX names the compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
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
    "csrc/tests/amx_decoder.cpp",
    "csrc/tests/amx_emulated_build.cpp",
    "csrc/tests/amx_emulator.cpp",
    "csrc/tests/amx_exercise.cpp",
    "csrc/tests/amx_twin_build.cpp",
    "csrc/tests/main.cpp",
    "csrc/tests/plain_encoder.cpp",
    "csrc/tests/support.cpp",
    "csrc/tests/test_activation_gradients.cpp",
    "csrc/tests/test_activations.cpp",
    "csrc/tests/test_add_layer_norm.cpp",
    "csrc/tests/test_add_layer_norm_training.cpp",
    "csrc/tests/test_amx.cpp",
    "csrc/tests/test_attention.cpp",
    "csrc/tests/test_attention_training.cpp",
    "csrc/tests/test_dropout.cpp",
    "csrc/tests/test_elements.cpp",
    "csrc/tests/test_embeddings.cpp",
    "csrc/tests/test_encoder.cpp",
    "csrc/tests/test_feed_forward.cpp",
    "csrc/tests/test_fingerprint.cpp",
    "csrc/tests/test_float32_parts.cpp",
    "csrc/tests/test_grouped_mlp_backward.cpp",
    "csrc/tests/test_grouped_pointwise_conv.cpp",
    "csrc/tests/test_instruction_sets.cpp",
    "csrc/tests/test_thread_team.cpp",
    "csrc/tests/test_transposed_weights.cpp",
    "csrc/tests/test_weight_gradient.cpp",
    "csrc/tests/training_support.cpp",
]
# Kernels that only tests have, and the file whose flags they get.
BUILT_LIKE = {"csrc/tests/amx_twin_build.cpp": "csrc/isa/avx2.cpp"}
# What tests get beside -O1, where the compiler knows it: AMX, and speed for what stands in for a CPU. Vectors of 64
# bytes are passed in another way with AVX-512; nothing passes the twin's to another file.
TEST_FLAGS = {
    "csrc/tests/amx_twin_build.cpp": ["-O2", "-Wno-psabi"],
    "csrc/tests/amx_emulator.cpp": ["-O3"],
    "csrc/tests/amx_exercise.cpp": ["-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}
SOURCES = build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES + TEST_SOURCES

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g1"]
SANITIZERS_ENVIRONMENT = {"SQUEEZEBERT_TEST_EVERY": "4"}

# Threads of the own pool: nothing here links OpenMP, whose own synchronisation ThreadSanitizer doesn't know. It can't
# follow a fork of a process with threads.
THREAD_SANITIZER = ["-fsanitize=thread", "-O1", "-g1"]
THREAD_SANITIZER_RUNS = [
    ["--source-file=*test_thread_team.cpp", "--test-case-exclude=*fork*"],
    ["--test-case=*number of threads*"],
]
THREAD_SANITIZER_ENVIRONMENT = {
    "TSAN_OPTIONS": "halt_on_error=1",
    "SQUEEZEBERT_TEST_BUILDS": "avx2,avx2_vnni,neon",
    "SQUEEZEBERT_TEST_EVERY": "2",
}

# The shipped machine code under memcheck, which knows neither AVX-512 nor VNNI but finds what sanitizers don't:
# decisions and results that depend on memory that nothing wrote.
VALGRIND = ["valgrind", "--quiet", "--error-exitcode=1"]
VALGRIND_RUNS = [
    [
        "--test-case-exclude=*features*,*threads*,*fork*,*activation*,*gelu*",
        "--source-file-exclude=*thread_team.cpp",
    ],
]
VALGRIND_ENVIRONMENT = {"SQUEEZEBERT_TEST_BUILDS": "avx2,neon", "SQUEEZEBERT_TEST_EVERY": "4"}

# What the build for AMX uses beside tiles, which alone are emulated.
AMX_NEEDS = {"avx512_bf16", "avx512_vnni"}
AMX_ENVIRONMENT = {"SQUEEZEBERT_TEST_BUILDS": "avx512_amx"}
AMX_SANITIZERS_ENVIRONMENT = {**AMX_ENVIRONMENT, "SQUEEZEBERT_TEST_EVERY": "8"}

ARM_COMPILER = "aarch64-linux-gnu-g++"
ARM_EMULATOR = "qemu-aarch64-static"
ARM_PACKAGES = ["g++-aarch64-linux-gnu", "qemu-user-static"]
ARM_LIBRARIES = "/usr/aarch64-linux-gnu"
ARM_ENVIRONMENT = {"SQUEEZEBERT_TEST_EVERY": "11"}


@dataclass
class EmulatedCpu:
    features: str  # of csrc/core/cpu_features.h; a build that needs another ends in an illegal instruction
    builds: str  # that are tested on it
    arguments: list[str] = field(default_factory=list)


# Every build on a CPU that has just what it needs, where the emulator has one; on the others, which builds are chosen.
ONLY_CHOICE = ["--source-file=*test_instruction_sets.cpp"]
ARM_CPUS = {
    "cortex-a72": EmulatedCpu("neon", "neon,scalar"),
    "cortex-a76": EmulatedCpu("neon neon_dotprod", "neon_dotprod"),
    "max,sve=off": EmulatedCpu("neon neon_dotprod neon_i8mm neon_bf16", "neon_i8mm"),
    "cortex-a35": EmulatedCpu("neon", "neon", ONLY_CHOICE),
    "a64fx": EmulatedCpu("neon", "neon", ONLY_CHOICE),
    "neoverse-n1": EmulatedCpu("neon neon_dotprod", "neon_dotprod,neon", ONLY_CHOICE),
    "max": EmulatedCpu("neon neon_dotprod neon_i8mm neon_bf16", "neon_i8mm,neon_dotprod,neon", ONLY_CHOICE),
}
# Instructions newer than the architecture's first, of which each build has just these, and all other code none.
ARM_NEWER = re.compile(r"\s(sdot|udot|usdot|sudot|smmla|ummla|usmmla|bfdot|bfmmla|bfmlal\w|bfcvt\w*)\s")
ARM_INSTRUCTIONS = {
    "csrc/isa/neon_dotprod.cpp": {"sdot"},
    "csrc/isa/neon_i8mm.cpp": {"smmla", "bfmmla", "bfcvtn", "bfcvtn2"},
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


SAYS_HOW = [ROOT / "build_flags.py", ROOT / "csrc/build.ini", Path(__file__)]
"""What every object depends on."""


def is_current(target: Path) -> bool:
    """Whether an object is newer than all that it was made of, which the compiler listed beside it (-MMD)."""
    listed = target.with_suffix(".d")
    if not (target.exists() and listed.exists()):
        return False
    _, _, files = listed.read_text(encoding="utf-8").replace("\\\n", " ").partition(": ")
    made_of = [*SAYS_HOW, *(ROOT / file for file in files.split())]
    return all(path.exists() and path.stat().st_mtime < target.stat().st_mtime for path in made_of)


def flags_of(source: str, machine: str, compiler: str) -> list[str]:
    flags = build_flags.flags(BUILT_LIKE.get(source, source), machine, compiler)
    if source in TEST_SOURCES:
        # plain loops stay fast enough, and doctest's macros compile sooner
        flags = [*flags, "-O1", *build_flags.known(tuple(TEST_FLAGS.get(source, ())), compiler)]
    return flags


def objects_of(variant: Variant, sources: list[str]) -> list[Path]:
    """Compile what changed of these."""

    def compile_one(source: str) -> Path:
        target = variant.object_of(source)
        if is_current(target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = flags_of(source, variant.machine, variant.compiler)
        listed = ["-MMD", "-MF", str(target.with_suffix(".d")), "-MT", str(target)]
        unfinished = target.with_suffix(f".{os.getpid()}.o")  # another process may compile it too
        run([variant.compiler, *flags, *variant.extra_flags, *listed, "-c", source, "-o", str(unfinished)])
        unfinished.replace(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def build(variant: Variant) -> Path:
    """Compile what changed, link, and return the program."""
    objects = map(str, objects_of(variant, SOURCES))
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


def require(option: str, commands: list[str], packages: list[str]) -> None:
    """Find the commands; install the packages that have them where that is possible without asking."""
    if all(map(shutil.which, commands)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"{option} needs {' and '.join(commands)}: apt-get install {' '.join(packages)}")
    print(f"installing {' '.join(packages)}", flush=True)
    run(["apt-get", "-qq", "update"])
    command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages]
    run(command, DEBIAN_FRONTEND="noninteractive")


def check_instructions(object_file: Path, expected: set[str]) -> None:
    """Exit unless the newer instructions in the file are those `expected`: the linker may keep any file's copy."""
    objdump = inner_loop.MACHINES["aarch64"].objdump
    command = [objdump, "--disassemble", "--no-show-raw-insn", str(object_file)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if (found := set(ARM_NEWER.findall(listing))) != expected:
        sys.exit(f"{object_file} has {sorted(found)}; expected {sorted(expected)}")


def check_inner_loops(variant: Variant, machine: str) -> None:
    """Exit unless the sums of all large tiles stay in registers. `machine`: as inner_loop.MACHINES names it."""
    of_builds = {"x86_64": build_flags.X86_FLAGS, "aarch64": build_flags.AARCH64_FLAGS}[machine]
    for source, function, multiply_adds in inner_loop.expected_of(machine):
        needed = tuple(of_builds.get(Path(source).stem, ()))
        if not needed or build_flags.known(needed, variant.compiler):
            inner_loop.check(machine, variant.object_of(source), function, multiply_adds)


def require_arm_tools() -> None:
    require("AArch64", [ARM_COMPILER, ARM_EMULATOR], ARM_PACKAGES)


def test_arm(test_arguments: list[str]) -> None:
    require_arm_tools()
    variant = Variant("aarch64", ARM_COMPILER, "aarch64")
    program = build(variant)
    check_inner_loops(variant, "aarch64")
    for source in SOURCES:
        check_instructions(variant.object_of(source), ARM_INSTRUCTIONS.get(source, set()))

    def emulate(cpu: str) -> subprocess.CompletedProcess[str]:
        emulated = ARM_CPUS[cpu]
        command = [ARM_EMULATOR, "-cpu", cpu, "-L", ARM_LIBRARIES, str(program)]
        command += [*emulated.arguments, *test_arguments]
        environment = {
            **os.environ,
            "SQUEEZEBERT_TEST_BUILDS": emulated.builds,
            **ARM_ENVIRONMENT,
            "SQUEEZEBERT_TEST_CPU_FEATURES": emulated.features,
        }
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(ARM_CPUS, pool.map(emulate, ARM_CPUS), strict=True))
    for cpu, result in results.items():
        print(f"{cpu}:\n{result.stdout}{result.stderr}", flush=True)
    if failed := [cpu for cpu, result in results.items() if result.returncode != 0]:
        sys.exit(f"failed on {', '.join(failed)}")


def test_amx(test_arguments: list[str]) -> None:
    if why := why_no_amx_code():
        print(
            f"--amx: {why}: nothing was run. Without --amx or with --sanitize, the build's twin in plain C++ is"
        )
        return
    run([str(build(this_machine())), *test_arguments], **AMX_ENVIRONMENT)
    run([str(build(this_machine("-sanitized", SANITIZERS))), *test_arguments], **AMX_SANITIZERS_ENVIRONMENT)


def why_no_amx_code() -> str | None:
    if not build_flags.known(tuple(TEST_FLAGS["csrc/tests/amx_exercise.cpp"]), os.environ.get("CXX", "g++")):
        return "the compiler knows no AMX"
    cpuinfo = Path("/proc/cpuinfo")
    present = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    if missing := AMX_NEEDS - present:
        return f"this CPU lacks {' and '.join(sorted(missing))}, which isn't emulated"
    return None


def this_machine(suffix: str = "", extra_flags: list[str] | None = None) -> Variant:
    compiler, machine = os.environ.get("CXX", "g++"), platform.machine()
    return Variant(f"{machine}-{Path(compiler).name}{suffix}", compiler, machine, extra_flags or [])


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    which = parser.add_mutually_exclusive_group()
    for option in ("--sanitize", "--thread-sanitizer", "--valgrind", "--amx", "--arm", "--arm-tools"):
        which.add_argument(option, action="store_true")
    arguments, test_arguments = parser.parse_known_args()
    if arguments.arm:
        test_arm(test_arguments)
    elif arguments.arm_tools:
        require_arm_tools()
    elif arguments.amx:
        test_amx(test_arguments)
    elif arguments.sanitize:
        run([str(build(this_machine("-sanitized", SANITIZERS))), *test_arguments], **SANITIZERS_ENVIRONMENT)
    elif arguments.thread_sanitizer:
        program = str(build(this_machine("-thread-sanitized", THREAD_SANITIZER)))
        for selection in THREAD_SANITIZER_RUNS:
            run([program, *selection, *test_arguments], **THREAD_SANITIZER_ENVIRONMENT)
    elif arguments.valgrind:
        require("--valgrind", VALGRIND[:1], ["valgrind"])
        for selection in VALGRIND_RUNS:
            run([*VALGRIND, str(build(this_machine())), *selection, *test_arguments], **VALGRIND_ENVIRONMENT)
    else:
        variant = this_machine()
        tests = build(variant)
        if build_flags.is_x86_64(variant.machine) and build_flags.is_gcc(variant.compiler):
            check_inner_loops(variant, "x86_64")
        run([str(tests), *test_arguments])


if __name__ == "__main__":
    main()
