"""`bench`: what it measures, leaves out, refuses and warns of. Nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast import SqueezeBertModel
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import Case, Report, Timing, Turns, encoder_flops
from squeezebert_fast.benchmark.advice import advice, best, ways
from squeezebert_fast.benchmark.forwards import candidates_of
from squeezebert_fast.signals import ending_in_order
from squeezebert_fast.streams import progress_console
from tests.cli_helpers import refuses, run, save_model, succeeds

needs_native = pytest.mark.skipif(
    cpu.native_module_missing() is not None, reason="the native module is not built"
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertModel, tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Report, "doubt", lambda self: None)


def test_every_backend_is_timed_on_every_shape(encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chosen = ["--shapes", "1x8, 3x5", "--backends", "transformers,reference,auto", "--precision", "float32"]
    outputs = ["-o", tmp_path / "r.json", "--plot", tmp_path / "r.svg"]
    said = succeeds("bench", "-m", encoder, *chosen, "--repeats", 2, *outputs)
    data = json.loads((tmp_path / "r.json").read_text())
    assert [case["name"] for case in data["cases"]] == ["1x8", "3x5"]
    for case in data["cases"]:
        assert [each["name"] for each in case["candidates"]] == ["transformers", "reference", "auto"]
        assert all(len(each["seconds"]) == 2 for each in case["candidates"])
        assert (case["peak_flops_per_second"] is None) == (cpu.native_module_missing() is not None)
    assert all(name in said for name in ("1x8", "3x5", "transformers", "reference", "auto"))
    assert "<svg" in (tmp_path / "r.svg").read_text()
    assert len(list(tmp_path.iterdir())) == 2
    assert set(data["load"]) == {"average_before", "average_during", "others_before", "others_during"}
    if sys.platform == "linux":
        assert all(value is not None for value in data["load"].values())
        assert re.search(r"load average: \d+\.\d\d before, \d+\.\d\d during", said)
        assert re.search(r"others took: \d+% before, \d+% during", said)


@needs_native
@pytest.mark.slow
def test_every_precision_is_timed(encoder: Path, tmp_path: Path) -> None:
    chosen = ["--backends", "reference,cpu", "--precision", "float32, int8", "-o", tmp_path / "r.json"]
    assert "cpu int8" in succeeds("bench", "-m", encoder, "--shapes", "1x8", "--repeats", 1, *chosen)
    (case,) = json.loads((tmp_path / "r.json").read_text())["cases"]
    assert [each["name"] for each in case["candidates"]] == ["reference", "cpu", "cpu int8"]
    peaks = [each["peak_flops_per_second"] for each in case["candidates"]]
    assert peaks[0] == peaks[1] != peaks[2]


@needs_native
@pytest.mark.slow
def test_padding_is_timed_with_and_without_unpad(encoder: Path, tmp_path: Path) -> None:
    chosen = ["--shapes", "1x8,3x4-8", "--backends", "reference,cpu", "--precision", "float32,int8"]
    data = json.loads(succeeds("bench", "-m", encoder, *chosen, "--repeats", 1, "--json"))
    plain, padded = ([each["name"] for each in case["candidates"]] for case in data["cases"])
    assert plain == ["reference", "cpu", "cpu int8"]
    assert padded == ["reference", "cpu", "cpu unpad", "cpu int8", "cpu int8 unpad"]
    config = SqueezeBertModel.from_pretrained(encoder).config
    needed = sum(encoder_flops(config, 1, length) for length in (8, 6, 4))
    assert [case["flops"] for case in data["cases"]] == [encoder_flops(config, 1, 8), needed]
    assert [way["precision"] for way in data["ways"]] == ["float32", "int8"]
    assert data["best"] is None or data["best"] in data["ways"]


def timed(name: str, **seconds: float) -> Case:
    """A case in which these candidates took so long, by their names with _ for spaces."""
    return Case(name, tuple(Timing(each.replace("_", " "), (value,)) for each, value in seconds.items()))


ALL = candidates_of(("reference", "cpu"), cpu.PRECISIONS, unpad=True)


def test_the_advice_is_the_fastest_way_over_all_shapes() -> None:
    cases = [
        timed("1x8", reference=10, cpu=5, cpu_bfloat16=4, cpu_int8=2),
        timed("8x4-8", reference=10, cpu=5, cpu_unpad=4, cpu_bfloat16=4, cpu_bfloat16_unpad=3.99, cpu_int8=3),
    ]
    found = ways(cases, ALL)
    assert [way.candidate.call for way in found] == [
        "patch(model, unpad=True)",
        'patch(model, precision="bfloat16")',  # unpad wins too little to be worth it
        'patch(model, precision="int8")',
    ]
    assert found[0].speed_ups == (2, 2.5)
    assert advice(found, "reference") == (
        'best on this machine: patch(model, precision="int8"), 3.3 to 5.0 times as fast as reference '
        "(`evaluate --precision float32,int8` tells what int8 costs in accuracy); "
        "in float32: patch(model, unpad=True), 2.0 to 2.5 times"
    )


def test_a_less_exact_way_must_be_clearly_faster_to_be_advised() -> None:
    close = ways([timed("1x8", reference=10, cpu=5, cpu_bfloat16=4.9, cpu_int8=4.8)], ALL)
    assert advice(close, "reference") == (
        "best on this machine: patch(model), 2.0 times as fast as reference"
    )
    slow = ways([timed("1x8", reference=10, cpu=10, cpu_int8=9.9)], ALL)
    assert best(slow) is None
    assert advice(slow, "reference") == "nothing here is faster than reference"
    none_chosen_yet = ways([timed("1x8", reference=10.8, cpu=10.4, cpu_int8=10.2)], ALL)
    assert best(none_chosen_yet) is None  # int8 is worth it over the reference, not over cpu


def test_what_failed_in_one_shape_is_not_advised() -> None:
    cases = [timed("1x8", reference=10, cpu=5, cpu_int8=2), timed("8x8", reference=10, cpu=5)]
    assert [way.candidate.label for way in ways(cases, ALL)] == ["cpu"]
    assert "nothing to choose from" in advice(ways([timed("1x8", reference=10)], ALL), "reference")


def test_what_cannot_be_measured_is_left_out_with_its_reason(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)  # as the candidates' processes see it too
    report = tmp_path / "r.json"
    chosen = [
        "--backends",
        "transformers,triton,reference",
        "--precision",
        "float32",
        "--repeats",
        1,
        "-o",
        report,
    ]
    result = run("bench", "-m", encoder, "--shapes", "1x8", *chosen)
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert first.startswith("squeezebert-fast: warning: without transformers: ")
    assert first.endswith("pip install squeezebert-fast[transformers]")
    assert second.startswith("squeezebert-fast: warning: without triton: ")
    data = json.loads(report.read_text())
    assert [each["name"] for each in data["cases"][0]["candidates"]] == ["reference"]
    assert list(data["left_out"]) == ["transformers", "triton"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shapes", "1x8,8"], "the shape is '8', expected batch x tokens"),
        (["--shapes", "0x8"], "the shape is '0x8'"),
        (["--shapes", "2x9-8"], "the shape is '2x9-8', whose shortest text is longer than its longest"),
        (["--shapes", "2x0-8"], "the shape is '2x0-8'"),
        (["--shapes", "1x8,1x8"], "the shapes 1x8,1x8 are not all different"),
        (["--shapes", "2x8-65"], "2x65; expected at least 1x1 and up to 64 tokens"),
        (["--shapes", ""], "the shape is ''"),
        (["--shapes", "1x65"], "1x65; expected at least 1x1 and up to 64 tokens"),
        (
            ["--backends", "fastest"],
            "backend is 'fastest', expected one of auto, reference, cpu, triton, transformers",
        ),
        (
            ["--backends", "triton"],
            "nothing left to measure: grouped_pointwise_conv: triton: the tensors are on cpu",
        ),
        (["--precision", "int4"], "precision is 'int4', expected one of float32, bfloat16, int8\n"),
        (["--backends", "reference,reference"], "not all different"),
        (["--repeats", 0], "'--repeats'"),
        (["--plot", "p.gif"], "the suffix of the plot p.gif is '.gif', expected one of .png, .svg"),
        (["--plot", "no/p.png"], "there is no directory"),
        (["-o", "."], "is a directory"),
    ],
)
def test_a_bench_that_makes_no_sense_is_refused(
    encoder: Path, arguments: list[object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuses("bench", "-m", encoder, "--shapes", "1x8", "--repeats", 1, *arguments, said=said)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_told_once(tmp_path: Path) -> None:
    model = save_model(SqueezeBertModel, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"no weights")
    refuses("bench", "-m", model, "--shapes", "1x8", "--backends", "reference,auto", said="model.safetensors")


def test_a_missing_plotter_is_told_before_anything_is_measured(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refuses("bench", "-m", encoder, "--plot", "p.png", said="pip install squeezebert-fast[plot]")


def test_figures_that_are_worth_little_come_with_a_warning(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Report, "doubt", lambda self: "others took 43% of the CPUs' time")
    result = run("bench", "-m", encoder, "--shapes", "1x8", "--backends", "reference", "--repeats", 1)
    assert result.exit_code == 0
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("squeezebert-fast: warning: others took 43% of the CPUs' time: don't rely on")
    assert "--repeats" in warning


# Ctrl-C

PATIENCE = 120.0  # seconds until a process that hangs fails the test


def children(pid: int) -> dict[int, str]:
    """The states of a process's children, as /proc has them, but for Python's own that watches over resources."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            command = (folder / "cmdline").read_text(errors="replace")
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid and "resource_tracker" not in command and "spawn_main" in command:
            found[int(folder.name)] = fields[0]
    return found


def hear_ctrl_c() -> None:
    """What a shell starts in the background has it ignored, and so has all that this starts in turn."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def hears_ctrl_c(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(re.findall(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)[0], 16)
    return not ignored & 1 << (signal.SIGINT - 1)


class Made:
    """A worker that is asked to end, in whose midst a second SIGTERM comes."""

    ended = 0

    def end(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        self.ended += 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to wait for")
def test_a_second_sigterm_leaves_no_candidate_stopped() -> None:
    """As `timeout` sends it: a candidate that is left stopped would have Python's own end wait for it for ever."""
    workers = [Made(), Made()]
    before = signal.getsignal(signal.SIGTERM)
    turns = Turns(1, progress_console())
    turns._workers = {"first": workers[0], "second": workers[1]}  # type: ignore[dict-item]
    with pytest.raises(SystemExit) as ended, ending_in_order(), turns:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert [worker.ended for worker in workers] == [1, 1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of processes")
@pytest.mark.parametrize("when", ["a candidate imports its modules", "all but one are stopped"])
def test_ctrl_c_ends_every_process_with_one_line(when: str, encoder: Path, tmp_path: Path) -> None:
    program = "from squeezebert_fast.cli import main; main()"
    chosen = [
        "--shapes",
        "1x8",
        "--backends",
        "reference,auto",
        "--precision",
        "float32",
        "--repeats",
        "1000000",
    ]
    outputs = ["-o", str(tmp_path / "r.json")]
    command: Any
    with subprocess.Popen(
        [sys.executable, "-c", program, "bench", "-m", str(encoder), *chosen, *outputs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        start_new_session=True,  # a process group of its own, as a terminal gives each command
        preexec_fn=hear_ctrl_c,
        text=True,
    ) as command:
        wanted = 1 if when == "a candidate imports its modules" else 2
        limit = time.monotonic() + PATIENCE
        while True:
            if time.monotonic() > limit:
                os.killpg(command.pid, signal.SIGKILL)
            states = children(command.pid)
            stopped = sum(state == "T" for state in states.values())
            if len(states) >= wanted and stopped >= wanted - 1 and hears_ctrl_c(command.pid):
                break
            assert command.poll() is None, command.stderr.read()
            time.sleep(0.01)
        os.killpg(command.pid, signal.SIGINT)
        said, complaint = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130
    assert said == ""
    assert complaint == "squeezebert-fast: stopped before all was measured; nothing was written\n"
    assert not any(Path(f"/proc/{pid}").exists() for pid in states)
    assert list(tmp_path.iterdir()) == []
