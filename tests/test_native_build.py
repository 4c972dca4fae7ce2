"""The native module as files: which machine code lies where, what it links, how it builds and fails to."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

import build_flags
from benchmarks.arm.tools import run_tests

ROOT = Path(__file__).resolve().parents[1]
MACHINE = platform.machine()
MODULE_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
COMPILER = os.environ.get("CXX", "g++")
INSTRUCTION_SETS = build_flags.BUILDS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files with binutils")
x86_only = pytest.mark.skipif(not build_flags.is_x86_64(MACHINE), reason=f"not x86-64: {MACHINE}")

BASELINE, AVX2, AVX_VNNI = "baseline", "AVX2", "AVX VNNI"
AVX512, VNNI, BF16, AMX = "AVX-512", "AVX-512 VNNI", "AVX-512 BF16", "AMX"

# What each file of csrc/isa/ may and does need: its own instructions are in its code, and no others.
EXPECTED_CLASSES = {
    "avx2.cpp": {AVX2},
    "avx2_vnni.cpp": {AVX2, AVX_VNNI},
    "avx512.cpp": {AVX2, AVX512},
    "avx512_vnni.cpp": {AVX2, AVX512, VNNI},
    "avx512_bf16.cpp": {AVX2, AVX512, VNNI, BF16},
    "avx512_amx.cpp": {AVX2, AVX512, BF16, AMX},  # int8 is on tiles
}


def output_of(*command: str | Path) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def instruction_class(text: str) -> str:
    """What a CPU needs for one disassembled instruction. Every AVX, AVX2 and FMA mnemonic begins with v."""
    if re.match(r"tile|tdp|ldtilecfg|sttilecfg", text):
        return AMX
    if re.match(r"\{vex\} vpdp(?:busd|wssd)s?", text):  # what AVX-512 has too is marked where it isn't meant
        return AVX_VNNI
    if match := re.match(r"v(?:p(dp)(?:busd|wssd)s?|(dpbf16|cvtne2?ps2bf16))", text):
        return VNNI if match[1] else BF16
    if re.search(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])", text):
        return AVX512
    return AVX2 if text.startswith("v") else BASELINE


def source_of_functions(module: Path) -> dict[int, str]:
    """Address -> source file.

    Builds have functions of the same names, but a symbol table lists the local symbols of each file together.
    """
    sources, current = {}, ""
    for line in output_of("readelf", "--symbols", "--wide", module).splitlines():
        if match := re.match(r"\s*\d+: ([0-9a-f]+)\s+\S+ (FILE|FUNC)\s+\w+\s+\w+\s+\S+(?: (\S+))?", line):
            if match[2] == "FILE":
                current = match[3] or ""
            else:
                sources[int(match[1], 16)] = current
    return sources


@pytest.fixture(scope="module")
def module() -> Path:
    spec = importlib.util.find_spec("squeezebert_fast._native")
    if spec is None or spec.origin is None:
        pytest.skip("installed without native kernels")
    return Path(spec.origin)


@pytest.fixture(scope="module")
def classes_by_source(module: Path) -> dict[str, set[str]]:
    """Source file -> classes of the instructions in its functions; "" is for those of no single file."""
    sources = source_of_functions(module)
    found: dict[str, set[str]] = defaultdict(set)
    source = ""
    for line in output_of("objdump", "--disassemble", "--no-show-raw-insn", module).splitlines():
        if header := re.match(r"([0-9a-f]+) <", line):
            source = sources.get(int(header[1], 16), "")
        elif instruction := re.match(r"\s+[0-9a-f]+:\s+(.*)", line):
            found[source].add(instruction_class(instruction[1]))
    return found


@pytest.fixture(scope="module")
def objects() -> dict[str, Path]:
    """Instruction set -> object file, of the C++ tests, which are compiled as what is shipped."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler {COMPILER!r}")
    compiled = run_tests.objects_of(run_tests.this_machine(), build_flags.INSTRUCTION_SET_SOURCES)
    return dict(zip(INSTRUCTION_SETS, compiled, strict=True))


@x86_only
def test_wide_instructions_stay_in_the_builds_for_them(classes_by_source: dict[str, set[str]]) -> None:
    assert "scalar.cpp" in classes_by_source
    wide = {source: found - {BASELINE} for source, found in classes_by_source.items() if found != {BASELINE}}
    assert wide == EXPECTED_CLASSES


@x86_only
def test_what_runs_before_the_cpu_is_known_is_for_every_cpu(classes_by_source: dict[str, set[str]]) -> None:
    every_cpu = [Path(source).name for source in build_flags.CORE_SOURCES + build_flags.PYTHON_SOURCES]
    # A file whose functions all have external linkage has none that the symbol table says it is from; they are in "".
    assert [source for source in every_cpu if not classes_by_source[source] <= {BASELINE}] == []
    assert classes_by_source["fingerprint.cpp"] == {BASELINE}
    assert classes_by_source[""] == {BASELINE}


@x86_only
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mulss  %xmm1,%xmm0", BASELINE),
        ("vmulss %xmm1,%xmm0,%xmm0", AVX2),
        ("vfmadd231ps %ymm1,%ymm2,%ymm3", AVX2),
        ("vfmadd231ps %zmm1,%zmm2,%zmm3", AVX512),
        ("vmovups %xmm17,(%rax)", AVX512),
        ("kmovw  %eax,%k1", AVX512),
        ("vpdpbusd %zmm1,%zmm2,%zmm3", VNNI),
        ("{vex} vpdpbusd %ymm1,%ymm2,%ymm3", AVX_VNNI),
        ("vpdpbusd %ymm1,%ymm2,%ymm3", VNNI),
        ("vdpbf16ps %zmm1,%zmm2,%zmm3", BF16),
        ("vcvtneps2bf16 %zmm1,%ymm2", BF16),
        ("ldtilecfg (%rsp)", AMX),
        ("tileloadd (%rdi,%rsi,1),%tmm4", AMX),
        ("tdpbf16ps %tmm6,%tmm4,%tmm0", AMX),
        ("tdpbusd %tmm7,%tmm5,%tmm3", AMX),
        ("tilerelease", AMX),
    ],
)
def test_an_instruction_is_told_by_its_registers_and_mnemonic(text: str, expected: str) -> None:
    assert instruction_class(text) == expected


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_build_exports_its_table_alone(objects: dict[str, Path], name: str) -> None:
    listing = output_of("nm", "--demangle", "--defined-only", objects[name])
    symbols = [re.match(r"[0-9a-f]+ (\w) (.*)", line) for line in listing.splitlines()]
    exported = [symbol[2] for symbol in symbols if symbol and symbol[1].isupper() and symbol[1] in "TDBRC"]
    assert exported == [f"squeezebert::{name}_kernels()"]
    # Of weak and unique symbols the linker keeps one copy for all files, maybe the one for the widest CPU.
    assert [symbol[2] for symbol in symbols if symbol and symbol[1] in "WwVvu"] == []


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_build_runs_nothing_when_the_module_is_loaded(objects: dict[str, Path], name: str) -> None:
    sections = output_of("readelf", "--sections", "--wide", objects[name])
    assert ".text" in sections
    assert not re.search(r"\.(init_array|ctors|preinit_array)", sections)


def test_the_module_links_neither_openmp_nor_torch(module: Path) -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "--dynamic", module))
    assert any(library.startswith("libstdc++") for library in needed)
    assert [library for library in needed if re.search("gomp|omp|torch|c10|cuda|python", library)] == []


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A copy of what a build reads, without anything that an earlier build left."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pybind11")
    pytest.importorskip("ninja")
    tree = tmp_path / "tree"
    leftovers = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in ("csrc", "squeezebert_fast", "triton_kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=leftovers, symlinks=True)
    for name in ("setup.py", "build_flags.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    return tree


def build(
    tree: Path, *command: str, mode: str, compiler: str = "false", **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CC": compiler, "CXX": compiler, "SQUEEZEBERT_FAST_NATIVE": mode, **settings}
    arguments = [sys.executable, "setup.py", *command]
    return subprocess.run(arguments, cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_compiler_the_package_is_pure_python_and_says_so(source_tree: Path, compiler: str) -> None:
    result = build(source_tree, "bdist_wheel", "--dist-dir", "out", mode="auto", compiler=compiler)
    assert result.returncode == 0, result.stderr
    assert "installing without native kernels" in result.stderr
    (wheel,) = (source_tree / "out").glob("*.whl")
    names = [re.sub(r"^.*/purelib/", "", name) for name in zipfile.ZipFile(wheel).namelist()]
    assert "squeezebert_fast/triton_kernels/__init__.py" in names
    shipped = ROOT / "squeezebert_fast" / "models" / "sentiment"
    assert {f"squeezebert_fast/models/sentiment/{path.name}" for path in shipped.iterdir()} <= set(names)
    assert [name for name in names if name.endswith(MODULE_SUFFIX)] == []


@x86_only
@pytest.mark.slow
def test_a_compiler_without_amx_builds_everything_else(tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler {COMPILER!r}")
    old = tmp_path / "old-compiler"
    refuse = 'case "$*" in *-mamx*) echo "unknown option" >&2; exit 1;; esac'
    old.write_text(f'#!/bin/sh\n{refuse}\nexec {COMPILER} "$@"\n')
    old.chmod(0o755)

    def exported_code(source: str) -> int:
        target = tmp_path / f"{Path(source).stem}.o"
        flags = build_flags.flags(source, MACHINE, str(old))
        output_of(old, *flags, "-fPIC", "-c", ROOT / source, "-o", target)
        return target.stat().st_size

    assert exported_code("csrc/isa/avx512_amx.cpp") < 5_000 < exported_code("csrc/isa/avx512_bf16.cpp")
    assert build_flags.flags("csrc/isa/avx512_bf16.cpp", MACHINE, str(old)) == build_flags.flags(
        "csrc/isa/avx512_bf16.cpp", MACHINE, COMPILER
    )


@x86_only
def test_a_compiler_behind_a_launcher_gets_the_flags_of_every_build(
    source_tree: Path, tmp_path: Path
) -> None:
    launcher, compiler, log = tmp_path / "launcher", tmp_path / "compiler", tmp_path / "log"
    # As ccache: the first argument is the compiler, or an option of its own.
    launcher.write_text('#!/bin/sh\ncase "$1" in -*) echo "launcher: $1" >&2; exit 1;; esac\nexec "$@"\n')
    output = 'while [ $# -gt 0 ]; do [ "$1" != -o ] || : > "$2"; shift; done'
    compiler.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{output}\n')
    for script in (launcher, compiler):
        script.chmod(0o755)
    result = build(source_tree, "build_ext", mode="require", compiler=f"{launcher} {compiler}")
    assert result.returncode == 0, result.stderr
    compiled = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    for name, expected in build_flags.X86_FLAGS.items():
        (line,) = [words for words in compiled if f"csrc/isa/{name}.cpp" in words]
        assert set(expected) <= set(line), name


@x86_only
def test_a_cross_build_gets_the_flags_of_the_machine_it_is_for(source_tree: Path, tmp_path: Path) -> None:
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    output = 'while [ $# -gt 0 ]; do [ "$1" != -o ] || : > "$2"; shift; done'
    compiler.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{output}\n')
    compiler.chmod(0o755)
    target = {"_PYTHON_HOST_PLATFORM": "linux-aarch64"}
    result = build(source_tree, "build_ext", mode="require", compiler=str(compiler), **target)
    assert result.returncode == 0, result.stderr
    compiled = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    for name, expected in {**build_flags.AARCH64_FLAGS, "avx2": []}.items():
        (line,) = [words for words in compiled if f"csrc/isa/{name}.cpp" in words]
        assert {word for word in line if word.startswith("-m")} == set(expected), name


def test_an_edit_compiles_what_it_touches_and_nothing_else(source_tree: Path, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler {COMPILER!r}")
    # Looks for includes as the compiler does, and writes them down, but makes nothing of the code.
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'*" -c "*) echo "$*" >> {log}; exec {COMPILER} "$@" -E ;;\n'
        '*" -shared "*) while [ $# -gt 0 ]; do [ "$1" != -o ] || : > "$2"; shift; done ;;\n'
        f'*) exec {COMPILER} "$@" ;;\nesac\n'
    )
    compiler.chmod(0o755)

    def compiled() -> set[str]:
        log.write_text("")
        result = build(source_tree, "build_ext", mode="require", compiler=str(compiler))
        assert result.returncode == 0, result.stderr
        return set(re.findall(r"-c (\S+)", log.read_text(encoding="utf-8")))

    assert compiled() >= set(build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES)
    assert compiled() == set()
    with (source_tree / "csrc/python/arguments.h").open("a") as header:
        header.write("// edited\n")
    of_python = compiled()
    assert of_python
    assert of_python <= set(build_flags.PYTHON_SOURCES)
    settings = source_tree / "csrc/build.ini"
    settings.write_text(settings.read_text().replace("-std=c++17 ", "-std=c++17 -DEDITED "))
    assert compiled() >= set(build_flags.CORE_SOURCES + build_flags.INSTRUCTION_SET_SOURCES)
    (source_tree / "csrc/core/pooling.cpp").touch()
    assert compiled() == {"csrc/core/pooling.cpp"}


def test_without_a_compiler_required_kernels_are_an_error(source_tree: Path) -> None:
    result = build(source_tree, "build_ext", mode="require")
    assert result.returncode != 0
    assert "installing without native kernels" not in result.stderr


def test_kernels_can_be_left_out_on_purpose(source_tree: Path) -> None:
    result = build(source_tree, "build_ext", mode="off", compiler=COMPILER)
    assert result.returncode == 0
    assert "installing without native kernels (SQUEEZEBERT_FAST_NATIVE=off)" in result.stderr
    assert list(source_tree.rglob(f"*{MODULE_SUFFIX}")) == []


def test_an_unknown_build_mode_is_an_error_that_names_the_known_ones(source_tree: Path) -> None:
    result = build(source_tree, "build_ext", mode="maybe")
    assert result.returncode != 0
    assert "SQUEEZEBERT_FAST_NATIVE is 'maybe', expected one of auto, require, off" in result.stderr


def test_a_failed_build_leaves_no_module_of_an_earlier_one(source_tree: Path) -> None:
    module = f"_native{MODULE_SUFFIX}"
    in_place = source_tree / "squeezebert_fast" / module
    for_wheel = source_tree / "lib" / "squeezebert_fast" / module
    for stale in (in_place, for_wheel):
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_bytes(b"of an earlier version")
    assert build(source_tree, "build_ext", "--build-lib", "lib", mode="auto").returncode == 0
    assert not for_wheel.exists()
    assert build(source_tree, "build_ext", "--inplace", mode="auto").returncode == 0
    assert not in_place.exists()


def test_a_source_distribution_holds_every_file_of_the_build(source_tree: Path) -> None:
    result = build(source_tree, "sdist", "--dist-dir", "out", mode="require")
    assert result.returncode == 0, result.stderr
    (archive,) = (source_tree / "out").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in (".h", ".cpp", ".inc", ".ini")
    }
    sources.add("squeezebert_fast/models/sentiment/model_int8.safetensors")
    assert sources | {"setup.py", "build_flags.py", "triton_kernels/__init__.py"} <= names
