"""A disk that is full while a run writes: one line, nothing half written, and the run goes on to the same bits."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast.errors import StorageError
from squeezebert_fast.training import loop
from squeezebert_fast.training.reporting import draw_curves
from squeezebert_fast.training.run_folder import STATE, SUMMARY, RunFolder
from tests.cli_helpers import run
from tests.full_disk import files_of_at_most
from tests.training_helpers import (
    assert_same_end,
    small_run,
    state_of,
    trains,
    write_small_run,
)

STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_small_run(path)
    trains(*small_run(path, "whole"))
    return path


def assert_one_line(result: Any, *parts: str) -> None:
    *warnings, said = result.stderr.splitlines()
    assert result.exit_code == 1, result.stderr
    assert said.startswith("squeezebert-fast: ")
    assert all("initialised at random" in line for line in warnings)
    for part in (*parts, "File too large", "the same command with --resume goes on"):
        assert part in said, said


def fill_the_disk(method: str, step: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file grows any more once `method` of the trainer is called with `step` steps done."""
    original = getattr(loop.Trainer, method)

    def filled(self: loop.Trainer, *arguments: Any) -> Any:
        if self.progress.step == step:
            stack.enter_context(files_of_at_most(0))
        return original(self, *arguments)

    monkeypatch.setattr(loop.Trainer, method, filled)


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize(
    ("method", "step"),
    [
        *(("_step", step) for step in range(STEPS)),
        ("_evaluate", 3),
        ("_evaluate", 8),
        ("_save", 4),
        ("_finish", 8),
    ],
)
def test_a_run_on_a_full_disk_says_so_and_goes_on_to_the_same_end(
    method: str, step: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder / f"full-{method}-{step}"
    with monkeypatch.context() as patched, ExitStack() as stack:
        fill_the_disk(method, step, stack, patched)
        result = run(*small_run(folder, output.name))
    saved = {"_step": step // 2 * 2, "_save": step - 2, "_evaluate": (step - 1) // 2 * 2, "_finish": step}[
        method
    ]
    kept = "the last checkpoint is kept" if saved else "there is no checkpoint yet"
    assert_one_line(result, str(output), "can't be written", kept)
    assert list(output.glob(".*")) == []
    assert not (output / SUMMARY).exists()
    assert all(line["step"] <= step + 1 for line in RunFolder(output).records())
    assert (state_of(output)["step"] if (output / STATE).exists() else 0) == saved
    trains(*small_run(folder, output.name, "--resume"))
    assert_same_end(output, folder / "whole")


@pytest.mark.usefixtures("without_curves")
def test_a_checkpoint_that_is_cut_short_is_not_there(folder: Path) -> None:
    size = (folder / "whole" / STATE).stat().st_size
    with files_of_at_most(size * 3 // 4):
        result = run(*small_run(folder, "cut"))
    assert_one_line(result, "there is no checkpoint yet")
    assert not (folder / "cut" / STATE).exists()
    assert list((folder / "cut").glob(".*")) == []
    trains(*small_run(folder, "cut", "--resume"))
    assert_same_end(folder / "cut", folder / "whole")


@pytest.mark.usefixtures("without_curves")
def test_a_disk_that_is_full_from_the_start_leaves_no_half_of_a_tokenizer(folder: Path) -> None:
    with files_of_at_most(0):
        result = run(*small_run(folder, "nothing"))
    assert (result.exit_code, result.stderr.splitlines()[-1].count("can't be written")) == (1, 1)
    assert not (folder / "nothing").exists()


def test_a_line_of_the_log_is_whole_or_not_there(tmp_path: Path) -> None:
    log = RunFolder(tmp_path)
    log.log({"step": 1, "loss": 0.5})
    before = log.records()
    with (
        files_of_at_most(log.log_bytes + 5),
        pytest.raises(StorageError, match=r"log\.jsonl can't be written"),
    ):
        log.log({"step": 2, "loss": 0.25})
    assert log.records() == before


def test_curves_are_whole_or_not_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.png"
    draw_curves([{"step": 1, "loss": 1.0}], "accuracy", path)
    before = path.read_bytes()
    with files_of_at_most(1000), pytest.raises(StorageError, match="File too large"):
        draw_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], "accuracy", path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_limit_of_these_tests_is_lifted_again() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with files_of_at_most(10):
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 10
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
