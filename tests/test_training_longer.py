"""A finished run that goes on for longer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squeezebert_fast.training.optimizing import linear_schedule
from squeezebert_fast.training.run_folder import RUN
from tests.cli_helpers import refuses, run
from tests.training_helpers import (
    Killed,
    assert_same_end,
    kill_after,
    log_of,
    small_run,
    state_of,
    summary_of,
    trains,
    write_small_run,
)

pytestmark = pytest.mark.usefixtures("without_curves")
HIGHEST = 1e-2  # learning rate of `small_run`
LONGER = ("--epochs", 3, "--resume")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_small_run(path)
    return path


def finished(folder: Path, output: str, *more: object) -> Path:
    trains(*small_run(folder, output, *more))
    return folder / output


def rates(output: Path) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in log_of(output) if "loss" in line}


def test_more_epochs_go_on_where_the_longer_schedule_is(folder: Path) -> None:
    output = finished(folder, "longer")
    before = rates(output)
    said = trains(*small_run(folder, output.name, *LONGER))
    schedule = linear_schedule(12, 0.1)
    assert (
        f"resumed after step 8 of 12 instead of 8, at a learning rate of {HIGHEST * schedule(8):.2g}" in said
    )
    assert rates(output) == {**before, **{step: HIGHEST * schedule(step - 1) for step in (9, 12)}}
    assert (summary_of(output)["steps"], summary_of(output)["epochs"]) == (12, 3)
    assert json.loads((output / RUN).read_text())["epochs"] == 3
    assert [line["step"] for line in log_of(output) if "dev" in line] == [3, 4, 6, 8, 9, 12]


def test_the_first_step_after_the_end_has_the_longer_schedules_rate(folder: Path) -> None:
    """The shorter schedule's next rate, 0, would waste it."""
    output = finished(folder, "first-step", "--log-every", 1)
    trains(*small_run(folder, output.name, "--log-every", 1, *LONGER))
    assert rates(output)[9] == HIGHEST * linear_schedule(12, 0.1)(8) > 0


def test_a_run_of_the_usual_length_goes_on_for_more_epochs_alone(folder: Path) -> None:
    """Which its settings don't tell."""
    usual = small_run(folder, "usual")
    at = usual.index("--epochs")
    del usual[at : at + 2]
    trains(*usual)
    done = summary_of(folder / "usual")["epochs"]
    for fewer in (done - 1, done):
        refuses(
            *usual,
            "--epochs",
            int(fewer),
            "--resume",
            said="was begun with None; resume with the same or more",
        )
    trains(*usual, "--epochs", int(done) + 1, "--resume")
    assert summary_of(folder / "usual")["epochs"] == done + 1
    refuses(*usual, "--resume", said="epochs is None, but the run")


def test_a_killed_continuation_ends_as_if_it_had_not_been(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = finished(folder, "whole"), finished(folder, "killed")
    trains(*small_run(folder, whole.name, *LONGER))
    for step in (9, 11):
        with monkeypatch.context() as patched:
            kill_after(step, patched)
            assert isinstance(run(*small_run(folder, killed.name, *LONGER)).exception, Killed)
        assert not (killed / "metrics.json").exists()
    refuses(*small_run(folder, killed.name, "--resume"), said="epochs is 2, but the run")
    trains(*small_run(folder, killed.name, *LONGER))
    assert_same_end(killed, whole)


def test_a_run_that_is_not_finished_keeps_its_length(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its learning rate would be neither's."""
    with monkeypatch.context() as patched:
        kill_after(5, patched)
        run(*small_run(folder, "unfinished"))
    refuses(
        *small_run(folder, "unfinished", *LONGER),
        said="was begun with 2; resume with the same, or start anew",
    )
    assert state_of(folder / "unfinished")["step"] == 4


def test_a_finished_run_is_not_made_shorter_or_another(folder: Path) -> None:
    output = finished(folder, "shorter").name
    for changed in (["--epochs", 1], ["--max-steps", 4]):
        refuses(
            *small_run(folder, output, "--resume", *changed),
            said="resume with the same or more, or start anew",
        )
    refuses(*small_run(folder, output, *LONGER, "--seed", 1), said="seed is 1, but the run")
    assert (folder / output / "metrics.json").exists()


@pytest.mark.parametrize("more", [["--max-steps", 6], []])
def test_more_steps_go_on_too(more: list[object], folder: Path) -> None:
    output = finished(folder, f"steps-{len(more)}", "--max-steps", 3)
    assert summary_of(output)["steps"] == 3
    trains(*small_run(folder, output.name, "--resume", *more))
    assert summary_of(output)["steps"] == (6 if more else 8)


def test_more_patience_is_as_if_there_had_been_more_from_the_start(folder: Path) -> None:
    """The schedule is the same, so the bits are."""
    patient = ["--epochs", 20, "--metric", "accuracy"]
    short = finished(folder, "impatient", *patient, "--patience", 1)
    steps = summary_of(short)["steps"]
    assert summary_of(short)["out_of_patience"]
    assert steps < 80
    refuses(
        *small_run(folder, short.name, *patient, "--patience", 1, "--epochs", 30, "--resume"),
        said="ended before its last step, by its patience of 1; it goes on with a larger --patience",
    )
    trains(*small_run(folder, short.name, *patient, "--patience", 4, "--resume"))
    whole = finished(folder, "patient", *patient, "--patience", 4)
    assert summary_of(whole)["steps"] > steps
    assert summary_of(short)["best"] == summary_of(whole)["best"]
    assert summary_of(short)["steps"] == summary_of(whole)["steps"]
