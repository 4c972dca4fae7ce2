"""The example of every command's help, pasted into a shell in an empty folder. The hub's models are there."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer.main

from squeezebert_fast.cli import FIRST_STEPS, app
from tests.cli_helpers import succeeds
from tests.slow import slow
from tests.transformers_folders import make_sentence_folder, save_folder

GROUP: Any = typer.main.get_command(app)
ROOT = Path(__file__).parents[1]
COMMIT = "0" * 40
QUICK = set(GROUP.commands) - {"average", "bench", "distill", "finetune", "pretrain"}
SERVES = "serve"  # until it is stopped: tests/serving runs its example


def example(command: str) -> str:
    """The lines of a command's example, as its docstring has them."""
    text = inspect.cleandoc(GROUP.commands[command].help.replace("\b", ""))
    _, _, after = text.partition("Example:\n\n")
    return textwrap.dedent(after.partition("\n\n")[0]).rstrip()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's cache with models by the names of the examples, tiny ones with random weights."""
    cache = tmp_path_factory.mktemp("hub")
    sentences = make_sentence_folder(tmp_path_factory.mktemp("sentences"))
    masked = save_folder("distilbert", "ForMaskedLM", tmp_path_factory.mktemp("masked"))
    for name, folder in {
        "sentence-transformers/all-MiniLM-L6-v2": sentences,
        "distilbert/distilbert-base-uncased": masked,
    }.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "snapshots").mkdir()
        (repository / "snapshots" / COMMIT).symlink_to(folder, target_is_directory=True)
    return cache


def pasted(lines: str, folder: Path, hub: Path) -> str:
    """stdout of these lines in a shell that ends at the first one that fails."""
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", GROUP.commands)
def test_the_help_shows_the_example_as_it_is_to_be_pasted(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal of 80 columns must not break its lines."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    lines = example(command).splitlines()
    shown = [line.rstrip() for line in succeeds(command, "--help").splitlines()]
    start = next(at for at, line in enumerate(shown) if line.strip() == "Example:") + 2
    assert textwrap.dedent("\n".join(shown[start : start + len(lines)])).splitlines() == lines
    assert not shown[start + len(lines)]
    assert lines[-1].startswith(f"squeezebert-fast {command}")


@pytest.mark.parametrize("command", slow((name for name in GROUP.commands if name != SERVES), but=QUICK))
def test_an_example_runs_when_it_is_pasted(command: str, tmp_path: Path, hub: Path) -> None:
    assert pasted(example(command), tmp_path, hub) or (tmp_path / "vectors.npy").is_file()


def test_without_a_command_the_first_steps_are_shown_which_are_examples_too() -> None:
    assert succeeds() == FIRST_STEPS
    assert "#" not in FIRST_STEPS  # zsh takes no comments where one types
    steps = [line.strip() for line in FIRST_STEPS.splitlines() if line.startswith("    ")]
    first, second, third = steps
    assert first == example("doctor")
    assert second == example("predict").splitlines()[0]
    assert example("bench").startswith(third.replace("MODEL", "shipped:sentiment"))
