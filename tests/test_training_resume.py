"""A run that was killed, interrupted or went wrong: it goes on to the same bits, or says why it doesn't."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.storage import files
from squeezebert_fast.training import loop, runs
from squeezebert_fast.training.run_folder import STATE, RunFolder
from squeezebert_fast.training.tasks.sequences import SequenceClassification
from tests.cli_helpers import refuses, run, succeeds
from tests.training_helpers import (
    Killed,
    assert_same_end,
    kill_after,
    log_of,
    opinions,
    save_base,
    small_run,
    state_of,
    summary_of,
    trains,
    write_small_run,
    write_tsv,
)

PATIENCE = 120.0  # seconds until a hanging process fails the test
STEPS_PER_EPOCH = 4


pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_small_run(path)
    trains(*small_run(path, "whole"))
    return path


@pytest.mark.parametrize("step", range(1, 2 * STEPS_PER_EPOCH + 1))
def test_a_run_killed_after_any_step_ends_as_if_it_had_not_been(
    step: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"killed-{step}"
    with monkeypatch.context() as patched:
        kill_after(step, patched)
        assert isinstance(run(*small_run(folder, output)).exception, Killed)
    trains(*small_run(folder, output, "--resume"))
    assert_same_end(folder / output, folder / "whole")


@pytest.mark.parametrize(
    ("file", "time"),
    [
        (STATE, 1),
        (STATE, 2),
        (STATE, 4),
        ("model.safetensors", 1),
        ("config.json", 1),
        ("run.json", 1),
        ("tokenizer.json", 1),
        ("metrics.json", 1),
    ],
)
def test_a_run_killed_while_it_writes_a_file_ends_the_same(
    file: str, time: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, replace, seen = f"cut-{file}-{time}", os.replace, []

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == file:
            seen.append(target)
            if len(seen) == time:
                raise Killed
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", killed)
        result = run(*small_run(folder, output))
    assert isinstance(result.exception, Killed)
    trains(*small_run(folder, output, "--resume"))
    assert_same_end(folder / output, folder / "whole")


def test_a_finished_run_is_resumed_to_the_same_end(folder: Path) -> None:
    trains(*small_run(folder, "finished"))
    said = trains(*small_run(folder, "finished", "--resume"))
    assert "resumed after step 8 of 8" in said
    assert_same_end(folder / "finished", folder / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_a_request_to_stop_saves_and_says_how_to_go_on(
    number: int, where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"stopped-{where}-{number}"
    name = {"step": "loss", "evaluation": "answers"}[where]
    original, calls = getattr(SequenceClassification, name), []

    def signalled(self: SequenceClassification, *arguments: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(SequenceClassification, name, signalled)
        result = run(*small_run(folder, output))
    assert result.exit_code == 130
    step = {"step": 2, "evaluation": 3}[where]
    assert state_of(folder / output)["step"] == step
    assert f"stopped after step {step} of 8" in result.stderr
    assert result.stderr.endswith("; the same command with --resume goes on\n")
    trains(*small_run(folder, output, "--resume"))
    assert_same_end(folder / output, folder / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["read", "encode"])
def test_a_run_stopped_while_it_loads_leaves_nothing(
    number: int, where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(self: SequenceClassification, *arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        raise AssertionError("it goes on")

    output = folder / f"loading-{where}-{number}"
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(SequenceClassification, where, signalled)
        result = run(*small_run(folder, output.name))
    assert result.exit_code == 130
    assert not output.exists()
    assert signal.getsignal(number) is before


def with_head_first(folder: Path, output: str, *more: object) -> list[object]:
    return [word for word in small_run(folder, output, *more) if word != "--no-head-first"]


@pytest.fixture(scope="module")
def whole_with_head(folder: Path) -> Path:
    trains(*with_head_first(folder, "whole-head"))
    return folder / "whole-head"


@pytest.mark.parametrize(
    ("module", "name", "time"),
    [
        *((runs, "fit_head", time) for time in (1,)),
        *((loop, "evaluate", time) for time in range(1, 6)),
        *((loop.Records, "model", time) for time in (1, 2)),
        *((loop.Records, "evaluation", time) for time in (1, 5)),
        *((loop.Records, "state", time) for time in (1, 4)),
        *((loop.Records, name, 1) for name in ("curves", "summary")),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_with_a_fitted_head_killed_around_anything_ends_the_same(
    when: str,
    module: Any,
    name: str,
    time: int,
    folder: Path,
    whole_with_head: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, calls = getattr(module, name), []

    def killed(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if when == "before" and len(calls) == time:
            raise Killed
        found = original(*arguments, **options)
        if len(calls) == time:
            raise Killed
        return found

    output = f"head-{name}-{time}-{when}"
    with monkeypatch.context() as patched:
        patched.setattr(module, name, killed)
        assert isinstance(run(*with_head_first(folder, output)).exception, Killed)
    trains(*with_head_first(folder, output, "--resume"))
    assert_same_end(folder / output, whole_with_head)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["fit_head", "evaluate"])
def test_a_run_stopped_before_its_first_step_ends_the_same(
    number: int, where: str, folder: Path, whole_with_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its head is fitted nothing is kept yet, and the head of a checkpoint before step 1 is fitted already."""

    output = folder / f"head-{where}-{number}"
    module = runs if where == "fit_head" else loop
    original = getattr(module, where)

    def signalled(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, where, signalled)
        result = run(*with_head_first(folder, output.name))
    assert result.exit_code == 130
    assert output.exists() == (where == "evaluate")
    trains(*with_head_first(folder, output.name, "--resume"))
    assert_same_end(output, whole_with_head)


def test_a_run_of_other_threads_or_processes_goes_on_and_says_so(folder: Path) -> None:
    trains(*small_run(folder, "elsewhere"))
    path = folder / "elsewhere" / STATE
    torch.save({**state_of(folder / "elsewhere"), "threads": 4, "processes": 2}, path)
    said = trains(*small_run(folder, "elsewhere", "--resume"))
    assert "processes 1 after 2, threads 1 after 4: results differ by rounding and dropout" in said


def test_the_seconds_of_all_sessions_are_one_sum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps and evaluations that the model is made of: not of those that a kill took, which are made again."""
    now, session = [0.0], [0.0]

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            now[0] += session[0]
            return now[0]

    monkeypatch.setattr(loop, "time", Clock)
    whole = 8 + 4  # steps and evaluations, each of one difference of two readings
    with monkeypatch.context() as patched:
        session[0] = 1.0
        kill_after(5, patched)
        run(*small_run(folder, "timed"))
    before = state_of(folder / "timed")
    assert (before["step"], before["seconds"]) == (4, 4 + 2)
    session[0] = 10.0
    trains(*small_run(folder, "timed", "--resume"))
    assert summary_of(folder / "timed")["seconds"] == 6 + 10 * (whole - 6)
    logged = [line["seconds"] for line in log_of(folder / "timed") if "seconds" in line]
    assert logged == sorted(logged)
    trains(*small_run(folder, "timed", "--resume"))
    assert summary_of(folder / "timed")["seconds"] == 6 + 10 * (whole - 6)


def test_a_folder_of_files_with_odd_names_is_a_runs_data_that_must_stay_the_same(tmp_path: Path) -> None:
    base, parts = save_base(SqueezeBertModel, tmp_path / "base"), tmp_path / "parts"
    parts.mkdir()
    write_tsv(parts / "part-0000", opinions(20, 1))
    write_tsv(parts / "part-0001", opinions(20, 2))
    for command, format in (("pretrain", []), ("finetune", ["--input-format", "tsv"])):
        run_once = [command, parts, *format, "-m", base, "-o", tmp_path / command, "--max-steps", 1]
        trains(*run_once)
        trains(*run_once, "--resume")
        write_tsv(parts / "part-0001", opinions(20, 3))
        refuses(*run_once, "--resume", said="resume with the same")
        write_tsv(parts / "part-0001", opinions(20, 2))


def stopped_in_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = SequenceClassification.loss, []

    def signalled(self: SequenceClassification, *arguments: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        if sum(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(SequenceClassification, "loss", signalled)


@pytest.mark.parametrize("with_dev", [True, False])
def test_a_run_stopped_before_any_evaluation_leaves_the_last_model(
    with_dev: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = small_run(folder, f"model-{with_dev}")
    if not with_dev:
        for option in ("--dev", "--evaluate-every"):
            del words[words.index(option) : words.index(option) + 2]
    with monkeypatch.context() as patched:
        stopped_in_step(2, patched)
        result = run(*words)
    assert result.exit_code == 130
    output = folder / f"model-{with_dev}"
    assert f"with that step's model in {output}" in result.stderr
    model = SqueezeBertForSequenceClassification.from_pretrained(output)
    average = state_of(output)["average"]
    assert all(torch.equal(value, average[f"module.{name}"]) for name, value in model.state_dict().items())
    assert "accuracy" in succeeds("evaluate", folder / "dev.tsv", "-m", output)


def test_a_run_stopped_after_an_evaluation_leaves_the_best_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stopped_in_step(5, patched)
        result = run(*small_run(folder, "best"))
    assert "stopped after step 5 of 8; the same command with --resume goes on\n" in result.stderr
    best = SqueezeBertForSequenceClassification.from_pretrained(folder / "best").state_dict()
    average = state_of(folder / "best")["average"]
    assert any(not torch.equal(value, average[f"module.{name}"]) for name, value in best.items())


def test_a_second_ctrl_c_does_not_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(self: SequenceClassification, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("a second Ctrl-C was ignored")

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(SequenceClassification, "loss", signalled)
        result = run(*small_run(folder, "impatient"))
    assert (result.exit_code, result.stderr.count("\n")) == (130, 1)  # the line is of the new head
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_names_the_step(
    value: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"loss-{value}"
    original, calls = SequenceClassification.loss, []

    def broken(self: SequenceClassification, *arguments: Any) -> Any:
        calls.append(value)
        return original(self, *arguments) * (value if torch.is_grad_enabled() and len(calls) > 3 else 1.0)

    with monkeypatch.context() as patched:
        patched.setattr(SequenceClassification, "loss", broken)
        result = run(*small_run(folder, output))
    assert result.exit_code == 2
    assert f"the loss is {value} at step " in result.stderr
    assert "the last checkpoint is kept" in result.stderr
    state = state_of(folder / output)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    trains(*small_run(folder, output, "--resume"))
    assert_same_end(folder / output, folder / "whole")


def test_an_infinite_gradient_of_a_finite_loss_stops_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SequenceClassification.loss

    def steep(self: SequenceClassification, *arguments: Any) -> Any:
        loss = original(self, *arguments)
        return loss + (
            torch.sqrt(loss * 0) if torch.is_grad_enabled() else 0
        )  # the root of 0 is infinitely steep

    monkeypatch.setattr(SequenceClassification, "loss", steep)
    result = run(*small_run(folder, "gradient"))
    assert "the gradient is not finite at step 1: stopped before it reached the parameters" in result.stderr
    assert "there is no checkpoint yet" in result.stderr
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--seed", 1], "seed is 1, but the run"),
        (["--epochs", 1], "epochs is 1, but the run"),
        (["--learning-rate", 0.1], "learning-rate is 0.1, but the run"),
        (["--task", "regression"], "task is 'regression', but the run"),
        (["--label-column", "text"], "label-column is 'text'"),
    ],
)
def test_a_run_cannot_go_on_as_another(changed: list[object], said: str, folder: Path) -> None:
    before = (folder / "whole" / STATE).read_bytes()
    refuses(*small_run(folder, "whole", "--resume", *changed), said=said)
    assert (folder / "whole" / STATE).read_bytes() == before


def test_changed_data_are_noticed(folder: Path) -> None:
    train, before = folder / "train.tsv", (folder / "train.tsv").read_text()
    try:
        train.write_text(before + "so good\tpos\n")
        refuses(*small_run(folder, "whole", "--resume"), said="train is '")
    finally:
        train.write_text(before)


@pytest.mark.parametrize("damage", ["cut", "text", "code", "other"])
def test_a_damaged_checkpoint_is_refused(damage: str, folder: Path) -> None:
    output = folder / f"damaged-{damage}"
    trains(*small_run(folder, output.name))
    path = output / STATE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "code":
        torch.save(torch.nn.Linear(1, 1), path)
    else:
        torch.save({**state_of(output), "model": {"weight": torch.zeros(1)}}, path)
    said = "doesn't fit this model" if damage == "other" else f"{path} is not a whole checkpoint"
    refuses_with_head(*small_run(folder, output.name, "--resume"), said=said)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder / "unreadable"
    trains(*small_run(folder, output.name))
    original = Path.open

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:  # as root may read whatever it likes
        if path == output / STATE:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    said = f"{output / STATE} can't be read: Permission denied"
    refuses_with_head(*small_run(folder, output.name, "--resume"), said=said)


def refuses_with_head(*arguments: object, said: str) -> None:
    """As `refuses`, after the line about the new head."""
    result = run(*arguments)
    assert result.exit_code == 2
    *_, last = result.stderr.splitlines()
    assert last.startswith("squeezebert-fast: ")
    assert said in last


def test_the_log_never_holds_a_step_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        kill_after(7, patched)  # steps 6 and 7 come after the last checkpoint's log
        run(*small_run(folder, "logged"))
    trains(*small_run(folder, "logged", "--resume"))
    steps = [line["step"] for line in log_of(folder / "logged") if "loss" in line]
    assert steps == [3, 6, 8]
    assert summary_of(folder / "logged")["seconds"] > 0
    assert RunFolder(folder / "logged").records() == log_of(folder / "logged")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_real_kill_loses_nothing_but_time(folder: Path) -> None:
    output = folder / "really-killed"
    words = [str(word) for word in small_run(folder, output.name)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from squeezebert_fast.cli import main; main()", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    while not (output / STATE).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    (output / f".{STATE}.0123abcd.tmp").write_text("half a checkpoint")
    trains(*small_run(folder, output.name, "--resume"))
    assert_same_end(output, folder / "whole")
    assert list(output.glob(".*")) == []
