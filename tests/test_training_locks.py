"""One process at a time in a run's folder, and in whatever directory a command makes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast import SqueezeBertModel
from squeezebert_fast.errors import CheckpointError, InputError, StorageError
from squeezebert_fast.storage import lock
from squeezebert_fast.storage.lock import LOCK, alone_in, holds_files
from squeezebert_fast.training.run_folder import STATE
from tests.cli_helpers import refuses, run, save_model, succeeds
from tests.training_helpers import (
    Killed,
    assert_same_end,
    kill_after,
    log_of,
    small_run,
    trains,
    write_small_run,
)

PATIENCE = 120.0  # seconds until a hanging process fails the test
pytestmark = pytest.mark.usefixtures("without_curves")
HOLDER = """
import sys
from pathlib import Path
from squeezebert_fast.storage.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("has it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_small_run(path)
    trains(*small_run(path, "whole"))
    return path


def holder_of(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the folder, until its stdin is closed or it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    return process


def killed_run(folder: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        kill_after(5, patched)
        assert isinstance(run(*small_run(folder, output)).exception, Killed)


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_second_process_is_refused_until_the_first_is_killed(
    flag: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder / f"joined{flag}"
    killed_run(folder, output.name, monkeypatch)
    before = (log_of(output), (output / STATE).read_bytes())
    holder = holder_of(output)
    try:
        said = rf"{output} is in use by process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d.*"
        result = run(*small_run(folder, output.name, flag))
        assert result.exit_code == 2
        assert re.fullmatch(rf"squeezebert-fast: {said}; wait for its end, or stop it\n", result.stderr)
        assert (log_of(output), (output / STATE).read_bytes()) == before
    finally:
        holder.kill()
        holder.communicate(timeout=PATIENCE)
    assert (output / LOCK).exists()  # which holds nobody up
    trains(*small_run(folder, output.name, flag))
    assert_same_end(output, folder / "whole")
    assert not (output / LOCK).exists()


def test_two_runs_that_begin_at_once_in_a_new_folder_are_one(folder: Path) -> None:
    words = [str(word) for word in small_run(folder, "raced", "--epochs", 30)]
    command = [sys.executable, "-m", "squeezebert_fast", *words]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate(timeout=PATIENCE)[1] for each in both]
    codes = [each.returncode for each in both]
    assert sorted(codes) == [0, 2], said
    refused = said[codes.index(2)]
    assert (
        f"is in use by process {both[codes.index(0)].pid} on" in refused or "holds a run already" in refused
    )
    steps = [line["step"] for line in log_of(folder / "raced") if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_run_holds_its_folder_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a process that doesn't write is in a long evaluation: the lock is not one of single writes."""
    seen = []

    def step(self: Any, *arguments: Any) -> Any:
        try:
            with alone_in(folder / "held"):
                seen.append("free")
        except InputError as error:
            seen.append(str(error))
        return original(self, *arguments)

    from squeezebert_fast.training.loop import Trainer

    original = Trainer._evaluate
    monkeypatch.setattr(Trainer, "_evaluate", step)
    trains(*small_run(folder, "held"))
    assert len(seen) == 4
    assert all(f"is in use by process {os.getpid()} on" in said for said in seen)
    assert json.loads((folder / "held" / "run.json").read_text())["epochs"] == 2


def test_a_run_that_cannot_begin_leaves_no_folder(folder: Path) -> None:
    output = folder / "a" / "b"
    words = small_run(folder, "a/b", "--label-column", "nothing")
    refuses(*words, said="nothing")
    assert not output.parent.exists()


@pytest.mark.parametrize("flag", ["", "--resume", "--overwrite"])
@pytest.mark.parametrize("half", [".run.json.0123abcd.tmp", ".x_3kd02q.tmp/config.json"])
def test_what_a_run_that_was_killed_while_it_loaded_leaves_is_nothing(
    half: str, flag: str, folder: Path
) -> None:
    output = folder / f"killed-early{flag}-{len(half)}"
    holder = holder_of(output)
    holder.kill()
    holder.communicate(timeout=PATIENCE)
    (output / half).parent.mkdir(exist_ok=True)
    (output / half).write_text("{")
    assert (output / LOCK).exists()
    assert not holds_files(output)
    refuses(*small_run(folder, output.name, "--resume", "--overwrite"), said="exclude each other")
    said = trains(*small_run(folder, output.name, *flag.split()))
    assert (f"{output} holds no run to resume: a new one begins" in said) == (flag == "--resume")
    assert_same_end(output, folder / "whole")
    assert list(output.glob(".*")) == []


def test_a_run_that_is_killed_while_it_loads_goes_on_by_resume(folder: Path) -> None:
    output = folder / "loading"
    words = [str(word) for word in small_run(folder, output.name, "--resume")]
    process = subprocess.Popen([sys.executable, "-m", "squeezebert_fast", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not (output / LOCK).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert [path.name for path in output.iterdir()] == [LOCK]
    trains(*words)
    assert_same_end(output, folder / "whole")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_where_there_are_no_locks_a_run_says_so_and_goes_on(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    output = folder / f"unlocked-{number}"
    result = run(*small_run(folder, output.name))
    assert result.exit_code == 0
    said = (
        f"{output} can't be locked ({os.strerror(number)}): nothing keeps a second process from writing there"
    )
    assert f"squeezebert-fast: warning: {said}\n" in result.stderr
    assert not (output / LOCK).exists()
    assert_same_end(output, folder / "whole")


def test_a_lock_that_its_last_owner_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, the owner may end and a third process take a new file."""
    opened, original = [], lock._lock

    def locked(descriptor: int) -> None:
        opened.append(descriptor)
        if len(opened) == 1:
            (tmp_path / LOCK).unlink()
        original(descriptor)

    monkeypatch.setattr(lock, "_lock", locked)
    with alone_in(tmp_path):
        assert len(opened) == 2
        with pytest.raises(InputError), alone_in(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", ["folder", "parent", "while it is made"])
def test_a_folder_that_its_last_owner_removes_is_made_again(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner that wrote nothing removes what it made for the lock, also before the next one has opened the file."""
    parent, folder = tmp_path / "a", tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    name = "make_directory" if gone == "while it is made" else "_locked"
    original, calls = getattr(lock, name), []

    def late(path: Path) -> Any:
        calls.append(path)
        if len(calls) == 1 and gone == "while it is made":  # as mkdir says it
            raise CheckpointError(f"{path} can't be written") from FileNotFoundError()
        if len(calls) == 1:
            folder.rmdir()
            if gone == "parent":
                parent.rmdir()
        return original(path)

    monkeypatch.setattr(lock, name, late)
    with alone_in(folder):
        assert len(calls) == 2
        assert (folder / LOCK).exists()
    left = {"folder": [parent], "parent": [], "while it is made": [parent, folder]}[gone]
    assert sorted(tmp_path.rglob("*")) == left


def test_a_lock_that_can_never_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "nowhere" / "lock")
    with pytest.raises(StorageError, match="can't be written"), alone_in(tmp_path):
        pass


def test_a_link_to_nowhere_is_no_folder(folder: Path) -> None:
    link = folder / "link"
    link.symlink_to(folder / "nowhere")
    for flag in ([], ["--resume"], ["--overwrite"]):
        for output in ("link", "link/within"):
            said = f"{link} is a link to {folder}/nowhere, which isn't there"
            refuses(*small_run(folder, output, *flag), said=said)


def test_a_holder_that_left_no_name_is_another_process(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        for content in ("", "{}", '{"process": 1'):
            (tmp_path / LOCK).write_text(content)
            with pytest.raises(InputError, match="is in use by another process; wait"), alone_in(tmp_path):
                pass


def test_commands_that_make_a_model_stay_out_of_a_running_run(folder: Path, tmp_path: Path) -> None:
    model = save_model(SqueezeBertModel, tmp_path / "model")
    made = sorted(path.name for path in (folder / "whole").iterdir())
    with alone_in(folder / "whole"):
        for command in (["quantize", model], ["average", model, model, "-o"], ["convert", model]):
            refuses(*command, folder / "whole", "--force", said="is in use by process")
    assert sorted(path.name for path in (folder / "whole").iterdir()) == made
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / ".model.safetensors.0123abcd.tmp").write_text("of one that was killed")
    succeeds("quantize", model, tmp_path / "int8")
    assert list((tmp_path / "int8").glob(".*")) == []
    assert not (tmp_path / "int8" / LOCK).exists()


def test_a_lock_ends_with_its_process_however_long_its_children_live(tmp_path: Path) -> None:
    """A descriptor that a child inherited would keep it."""
    with alone_in(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with alone_in(tmp_path):
            assert (tmp_path / LOCK).exists()
    finally:
        child.communicate(b"\n", timeout=PATIENCE)
