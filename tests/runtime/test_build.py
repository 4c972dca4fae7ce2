"""CMake compiles what setup.py and the C++ tests compile, with the same flags; the C example builds as it says."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from squeezebert_fast.shipped import SENTIMENT_MODEL
from tests.runtime.library import FOLDER, PROGRAM, ROOT, build, program

sys.path.insert(0, str(ROOT))  # build_flags.py isn't part of the package

import build_flags

EXAMPLE = ROOT / "examples" / "c" / "classify.c"


def test_cmake_compiles_each_file_with_the_flags_of_the_package(tmp_path: Path) -> None:
    program()
    folder = tmp_path / "commands"
    build_commands(folder)
    commands = {
        str(Path(entry["file"]).relative_to(ROOT)): shlex.split(entry["command"])
        for entry in json.loads((folder / "compile_commands.json").read_text())
    }
    compiler = commands["csrc/runtime/c_api.cpp"][0]
    core = [source for source in build_flags.CORE_SOURCES if source in commands]
    assert "csrc/core/encoder/run.cpp" in core
    for source in [*core, *build_flags.INSTRUCTION_SET_SOURCES]:
        expected = build_flags.flags(source, platform.machine(), compiler)
        assert [flag for flag in commands[source] if flag in set(expected)] == list(
            dict.fromkeys(expected)
        ), source


def build_commands(folder: Path) -> None:
    from tests.runtime.library import tool

    options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command = [tool("cmake"), "-S", str(ROOT), "-B", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True)


def test_the_library_offers_what_its_header_declares_and_nothing_else() -> None:
    program()
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    command = ["nm", "-D", "--defined-only", str(FOLDER / "libsqueezebert.so")]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    header = (ROOT / "csrc/runtime/squeezebert.h").read_text()
    declared = re.findall(r"\b(squeezebert_\w+)\(", header.partition("extern")[2])
    assert {line.split()[-1] for line in listed.splitlines()} == set(declared)


def test_the_static_library_leaves_other_names_to_its_users() -> None:
    program()
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    command = ["nm", "-g", "--defined-only", str(FOLDER / "libsqueezebert.a")]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in listed.splitlines() if re.search(r" [TDBR] ", line)}
    assert "squeezebert_open" in names
    ours = re.compile(r"squeezebert_|_Z\w*11squeezebert")
    assert {name for name in names if not ours.match(name)} == set()


def test_the_shared_library_stays_where_its_threads_sleep() -> None:
    program()
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    command = ["readelf", "-d", str(FOLDER / "libsqueezebert.so")]
    assert "NODELETE" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_program_needs_only_the_c_library() -> None:
    program()
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    command = ["readelf", "-d", str(PROGRAM)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    needed = {name.partition(".")[0] for name in re.findall(r"NEEDED.*\[(\S+)\]", listed)}
    assert needed <= {"libc", "libm", "libdl", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


@pytest.mark.parametrize("standard", ["c99", "c++17"])
def test_the_example_in_c_builds_and_classifies(standard: str, tmp_path: Path) -> None:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    program()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"needs a C compiler, {compiler[0]}")
    made, include = tmp_path / "classify", f"-I{ROOT}/csrc/runtime"
    if standard == "c99":
        language, sources = ["-x", "c"], [str(EXAMPLE)]
    else:  # the header is for C++ too
        (tmp_path / "only.cpp").write_text(
            "#include <squeezebert.h>\nint main() { return squeezebert_version()[0] == 0; }\n"
        )
        language, sources = ["-x", "c++"], [str(tmp_path / "only.cpp")]
    warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    library = [str(FOLDER / "libsqueezebert.so"), f"-Wl,-rpath,{FOLDER}"]
    command = [*compiler, f"-std={standard}", *warnings, include, *language, *sources, "-x", "none", *library]
    subprocess.run([*command, "-o", str(made)], check=True)
    done = subprocess.run(
        [made, SENTIMENT_MODEL, "A lovely film."], capture_output=True, text=True, check=True
    )
    if standard == "c99":
        without = subprocess.run([made], capture_output=True, text=True, check=False)
        assert (without.returncode, without.stderr) == (1, f"{made}: expected MODEL TEXT...\n")
        assert re.fullmatch(r"negative 0\.0\d\d positive 0\.9\d\d A lovely film\.\n", done.stdout)


def test_the_example_has_thirty_lines() -> None:
    code = EXAMPLE.read_text().partition("*/")[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_an_installed_copy_is_complete(tmp_path: Path) -> None:
    from tests.runtime.library import tool

    build(FOLDER)
    subprocess.run(
        [tool("cmake"), "--install", str(FOLDER), "--prefix", str(tmp_path)], check=True, capture_output=True
    )
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    libraries = {name.replace("lib64/", "lib/") for name in names if "lib" in name}
    assert {"bin/squeezebert-run", "include/squeezebert.h"} <= names
    assert libraries >= {"lib/libsqueezebert.a", "lib/libsqueezebert.so"}
