"""The commands and figures of the documentation: options that exist, and the tables of the results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks.defaults import RUNS, TASKS, with_tables
from squeezebert_fast.cli import app

ROOT = Path(__file__).parents[1]
WHICH_DATA = (ROOT / "docs" / "which_data.md").read_text(encoding="utf-8")
GROUP: Any = typer.main.get_command(app)


def commands_of(text: str) -> list[str]:
    """The commands that stand in blocks of their own, each on one line, but those that are cut short."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"(?m)^    (?:\$ )?squeezebert-fast (.+?)(?:\s{2,}#.*)?$", joined)
    return [line for line in lines if " ... " not in line]


PAGES = {
    path.name: commands_of(path.read_text(encoding="utf-8"))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


@pytest.mark.parametrize(
    "command",
    sorted({command for page in PAGES.values() for command in page} | {run.train for run in RUNS.values()}),
)
def test_a_page_shows_options_that_exist(command: str) -> None:
    name, *arguments = shlex.split(command)
    if "-o" not in arguments and "--output" not in arguments and name in ("finetune", "pretrain", "distill"):
        arguments += ["-o", "out"]
    GROUP.commands[name].make_context(name, arguments)


def test_commands_are_found_on_the_pages() -> None:
    """Else the test above tests nothing."""
    for page in ("README.md", "predict.md", "training.md", "which_data.md"):
        assert len(PAGES[page]) >= 3
    assert commands_of("text\n\n    squeezebert-fast finetune a \\\n        -o b\n") == ["finetune a -o b"]


def test_the_page_has_every_command_that_was_measured() -> None:
    for run in TASKS:
        assert f"    {run.command}\n" in WHICH_DATA


def test_the_pages_tables_are_the_results() -> None:
    path = ROOT / "benchmarks" / "results" / "defaults.json"
    results = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert {name: row["command"] for name, row in results.items()} == {
        name: RUNS[name].command for name in RUNS if name in results
    }
    assert with_tables(WHICH_DATA, results) == WHICH_DATA
    assert with_tables(WHICH_DATA, {}) != WHICH_DATA
