"""The program for AArch64, on emulated CPUs: `make test-arm`."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from squeezebert_fast.shipped import SENTIMENT_MODEL
from tests.runtime.library import ROOT, RuntimeModel, build, run
from tests.runtime.test_answers import make_folder

CPUS = {  # csrc/tests/run_tests.py has them too
    "cortex-a72": "neon",
    "cortex-a76": "neon_dotprod",
    "max": "neon_i8mm",
}
# A float32 sum in another order, and an activation is rounded to the next int: two builds for x86-64 differ by 2e-3 in
# a score. The last multiplies attention's scores and values in bfloat16.
OFF_BY = {"neon": 1e-2, "neon_dotprod": 1e-2, "neon_i8mm": 3e-2}
MOST_BYTES = 3_000_000
EMULATOR, LIBRARIES = "qemu-aarch64-static", "/usr/aarch64-linux-gnu"


@cache
def built() -> Path:
    for name in (EMULATOR, "aarch64-linux-gnu-g++"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}: apt-get install g++-aarch64-linux-gnu qemu-user-static")
    return build(
        ROOT / "build" / "runtime-aarch64", f"-DCMAKE_TOOLCHAIN_FILE={ROOT}/cmake/aarch64-linux-gnu.cmake"
    )


def emulated(cpu: str, *arguments: str, lines: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    command = (EMULATOR, "-cpu", cpu, "-L", LIBRARIES, str(built() / "squeezebert-run"))
    return run(*arguments, lines=lines, command=command)


@cache
def scores_of(cpu: str, folder: Path) -> list[dict[str, float]]:
    done = emulated(cpu, "classify", str(folder), "--json", "--top", "2", lines="\n".join(sentences()))
    assert (done.returncode, done.stderr) == (0, "")
    answers = map(json.loads, done.stdout.splitlines())
    return [{answer["label"]: answer["score"], answer["label_2"]: answer["score_2"]} for answer in answers]


def sentences() -> list[str]:
    rows = (ROOT / "examples/heldout_sentiments.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [row.split("\t")[-1] for row in rows[::4]]


@pytest.mark.parametrize("cpu", CPUS)
def test_real_sentences_get_the_labels_of_this_machine(cpu: str) -> None:
    model = RuntimeModel(SENTIMENT_MODEL)
    for text, theirs in zip(sentences(), scores_of(cpu, SENTIMENT_MODEL), strict=True):
        ours = dict(zip(model.labels, model.classify(text)[1], strict=True))
        assert max(theirs, key=theirs.__getitem__) == max(ours, key=ours.__getitem__), text
        assert theirs == pytest.approx(ours, abs=OFF_BY[CPUS[cpu]]), text


def test_int8_has_the_same_bits_on_two_cpus_whose_sums_of_floats_are_the_same() -> None:
    assert scores_of("cortex-a72", SENTIMENT_MODEL) == scores_of("cortex-a76", SENTIMENT_MODEL)


@pytest.mark.parametrize("cpu", CPUS)
def test_float32_agrees_with_this_machine_to_rounding(cpu: str, tmp_path: Path) -> None:
    folder = make_folder("squeezebert", "ForSequenceClassification", tmp_path, num_labels=2)
    model = RuntimeModel(folder)
    for text, theirs in zip(sentences(), scores_of(cpu, folder), strict=True):
        ours = dict(zip(model.labels, model.classify(text)[1], strict=True))
        assert theirs == pytest.approx(ours, abs=1e-5), text


@pytest.mark.parametrize("cpu", CPUS)
def test_a_cpu_has_the_build_that_is_for_it(cpu: str) -> None:
    wanted = "there is none of this name"
    command = ("env", f"SQUEEZEBERT_FAST_ISA={wanted}", EMULATOR, "-cpu", cpu, "-L", LIBRARIES)
    done = run("classify", str(SENTIMENT_MODEL), "x", command=(*command, str(built() / "squeezebert-run")))
    assert done.returncode == 3
    assert f"usable here: {CPUS[cpu]}," in done.stderr


def test_ids_are_those_of_this_machine() -> None:
    text = "Ünïcode, 日本語 and emoji 👩‍👩‍👧 in A̧ text!"
    assert emulated("max", "tokenize", str(SENTIMENT_MODEL), text).stdout.split() == [
        str(number) for number in RuntimeModel(SENTIMENT_MODEL).tokenize(text)[0]
    ]


def test_lines_that_are_no_texts_are_errors_and_the_others_are_answered() -> None:
    done = emulated("cortex-a72", "classify", str(SENTIMENT_MODEL), lines=b"\xff\ngood\na\0\ngood\n")
    assert done.returncode == 1
    first, second, third, fourth = done.stdout.splitlines()
    assert (first, third) == ("", "")
    assert second == fourth != ""


@pytest.mark.parametrize("name", ["squeezebert-run", "libsqueezebert.so", "libsqueezebert.a"])
def test_what_ships_has_less_than_three_megabytes_stripped(name: str, tmp_path: Path) -> None:
    made = tmp_path / name
    shutil.copy(built() / name, made)
    subprocess.run(["aarch64-linux-gnu-strip", "--strip-unneeded", str(made)], check=True)
    assert made.stat().st_size < MOST_BYTES


def test_a_head_that_lacks_is_an_error_for_each_line(tmp_path: Path) -> None:
    folder = make_folder("squeezebert", "Model", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["SqueezeBertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    done = emulated("cortex-a72", "classify", str(folder), lines="good\nbad\n")
    assert (done.returncode, done.stdout) == (1, "\n\n")
    assert done.stderr.count("lacks the model's") == 2
