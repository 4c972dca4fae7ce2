"""Fuzzes what the runtime reads: text, JSON, a tokenizer's files, a model's folder. Needs clang, which has libFuzzer.

    run_fuzz.py                    10 minutes in all, under AddressSanitizer and UndefinedBehaviorSanitizer
    run_fuzz.py --seconds 60       a minute
    run_fuzz.py --target text      one of the targets
    run_fuzz.py --replay FILE ...  inputs once more, of the target that --target names

What is found is in build/fuzz/found/, each input a file: mend its cause, and keep the input in
csrc/fuzz/corpus/TARGET/, which tests/runtime/test_text_fuzz.py runs through with any compiler. New inputs that reach
new code are in build/fuzz/corpus/, from where the next run goes on; --merge keeps those that the repository's corpus
lacks.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from run_tests import require

import build_flags

ROOT = Path(build_flags.__file__).resolve().parent
HERE = ROOT / "csrc/fuzz"
BUILD = ROOT / "build/fuzz"
COMPILER = os.environ.get("CXX", "clang++")
PACKAGES = ["clang", "libclang-rt-dev"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g1", "-UNDEBUG"]
TEXT_SOURCES = [source for source in build_flags.RUNTIME_SOURCES if source.startswith("csrc/runtime/text/")]
MODEL_SOURCES = [
    *build_flags.RUNTIME_SOURCES,
    *build_flags.CORE_SOURCES,
    *build_flags.INSTRUCTION_SET_SOURCES,
]
# What each is made of beside csrc/fuzz/TARGET.cpp, and the longest input in bytes.
TARGETS = {
    "text": (TEXT_SOURCES, 2048),
    "json": (TEXT_SOURCES, 2048),
    "tokenizer_files": (TEXT_SOURCES, 8192),
    "model": (MODEL_SOURCES, 32768),
}
# Hostile files go the same way to every build of the kernels, whose own tests run under sanitizers. Those for AVX-512
# take ten minutes to compile so: without their flags their files are empty.
BUILDS = {"scalar", "avx2", "neon"}
# Seconds for one input, and megabytes of memory: what takes more is a fault too.
LIMITS = ["-timeout=20", "-rss_limit_mb=2048", "-malloc_limit_mb=1024"]
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"}


def compile_all(sources: list[str]) -> list[str]:
    """Compile what has changed; the object files."""
    headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.in[ci]"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in headers)

    def compile_one(source: str) -> str:
        target = BUILD / Path(source).with_suffix(".o")
        if not target.exists() or target.stat().st_mtime < max(newest, (ROOT / source).stat().st_mtime):
            target.parent.mkdir(parents=True, exist_ok=True)
            is_left_out = source.startswith("csrc/isa/") and Path(source).stem not in BUILDS
            like = "csrc/core/rates.cpp" if is_left_out else source
            flags = build_flags.flags(like, platform.machine(), COMPILER)
            version = ['-DSQUEEZEBERT_VERSION="fuzz"']
            run(
                [
                    COMPILER,
                    *flags,
                    *version,
                    *SANITIZERS,
                    "-fsanitize=fuzzer-no-link",
                    "-c",
                    source,
                    "-o",
                    str(target),
                ]
            )
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def run(command: list[str]) -> None:
    """Run from the repository's root; end with its exit status if it fails."""
    result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=False)
    if result.returncode != 0:
        sys.exit(f"failed with {result.returncode}: {' '.join(command)}")


def build(target: str) -> Path:
    """The program of a target."""
    objects = compile_all(["csrc/fuzz/support.cpp", f"csrc/fuzz/{target}.cpp", *TARGETS[target][0]])
    program = BUILD / target
    libraries = [f"-l{name}" for name in build_flags.LINUX_LIBRARIES]
    run([COMPILER, *SANITIZERS, "-fsanitize=fuzzer", *objects, "-o", str(program), *libraries])
    return program


def fuzz(target: str, seconds: int) -> None:
    """Look for faults for so long; ends the process at the first."""
    found, grown, log = BUILD / "found", BUILD / "corpus" / target, BUILD / f"{target}.log"
    for folder in (found, grown):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={TARGETS[target][1]}", f"-dict={HERE / 'words.dict'}"]
    options += [*LIMITS, f"-artifact_prefix={found}/{target}-", "-print_final_stats=1"]
    command = [str(BUILD / target), *options, str(grown), str(HERE / "corpus" / target)]
    with log.open("wb") as file:
        result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stderr=file, check=False)
    said = log.read_text(encoding="utf-8", errors="replace")
    if result.returncode != 0:
        sys.exit(f"{said[-6000:]}\n{target} failed with {result.returncode}; the whole log is {log}")
    statistics = dict(re.findall(r"^stat::(\w+): +(\d+)$", said, re.MULTILINE))
    print(f"{target}: {statistics['number_of_executed_units']} inputs in {seconds} s, no fault", flush=True)


def merge(target: str) -> None:
    """Add to the repository's corpus what reaches code that it doesn't."""
    run([str(BUILD / target), "-merge=1", str(HERE / "corpus" / target), str(BUILD / "corpus" / target)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--replay", nargs="+")
    arguments = parser.parse_args()
    if shutil.which(COMPILER) is None:
        require("fuzzing", [COMPILER], PACKAGES)
    targets = arguments.target or list(TARGETS)
    for target in targets:
        build(target)
    for target in targets:
        if arguments.replay:
            run([str(BUILD / target), *arguments.replay])
        elif arguments.merge:
            merge(target)
        else:
            fuzz(target, max(1, arguments.seconds // len(targets)))


if __name__ == "__main__":
    main()
