"""README and docs/: commands that exist, code that runs, links that lead somewhere, figures that were measured."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks.defaults import RUNS, TASKS, with_tables
from benchmarks.tables import PLACE, TABLES, filled
from docs.pictures import PICTURES, drawn
from squeezebert_fast.cli import app
from tests.minilm import minilm_directory
from tests.test_layers import FLOORS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GROUP: Any = typer.main.get_command(app)


def commands_of(text: str) -> list[str]:
    """The commands that stand in blocks of their own, each on one line, but those that are cut short."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"(?m)^    (?:\$ )?(?:echo .+ \| )?squeezebert-fast ([a-z].+?)(?:\s{2,}#.*)?$", joined)
    return [line for line in lines if " ... " not in line]


TEXTS = {
    path: path.read_text(encoding="utf-8")
    for path in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
PAGES = {path.name: commands_of(text) for path, text in TEXTS.items()}
WHICH_DATA = TEXTS[ROOT / "docs" / "which_data.md"]


def names(paths: list[Path]) -> Any:
    """A parameter that takes each of these files, by its name."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


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


def test_the_page_of_the_command_line_has_every_command() -> None:
    page = TEXTS[ROOT / "docs" / "command_line.md"]
    table = page.partition("| command |")[2].partition("\n\n")[0]
    assert re.findall(r"(?m)^\| `([\w-]+)` \|", table) == list(GROUP.commands)


def python_blocks(text: str) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```", text)


@names([path for path, text in TEXTS.items() if re.search(r"```python\n(?!# needs )", text)])
def test_the_python_of_a_page_runs(path: Path, tmp_path: Path) -> None:
    blocks = [block for block in python_blocks(TEXTS[path]) if not block.startswith("# needs ")]
    program = "\n".join(blocks)
    if "all-MiniLM-L6-v2" in program:
        (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm_directory(), target_is_directory=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)


@names([path for path, text in TEXTS.items() if "```sh\n" in text])
def test_the_shell_of_a_page_is_shell(path: Path) -> None:
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", TEXTS[path]):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_python_that_needs_more_is_python() -> None:
    blocks = [block for text in TEXTS.values() for block in python_blocks(text)]
    assert len([ast.parse(block) for block in blocks if block.startswith("# needs ")]) >= 3


def test_the_floors_of_the_architecture_are_those_that_are_tested() -> None:
    page = TEXTS[ROOT / "docs" / "architecture.md"]
    cells = re.findall(r"(?m)^\| (`.+?) \|", page.partition("## The floors")[2].partition("\n## ")[0])
    told = [
        {name.removesuffix("/").removesuffix(".py") for name in re.findall("`(.+?)`", cell)} for cell in cells
    ]
    tested = [set(floor) - {"", "_native"} for floor in reversed(FLOORS)]
    assert set().union(*told) == set().union(*tested)
    for floor in tested:
        assert not floor or any(floor <= row for row in told), f"{floor} aren't in one row"


def test_a_picture_of_a_command_says_the_command_and_the_processor_and_fetches_nothing() -> None:
    picture = drawn("squeezebert-fast doctor", "CPU  avx512 [1]", "A CPU", "doctor")
    text = re.sub("&#160;", " ", re.sub(r"<[^>]+>", "", picture))
    for part in ("squeezebert-fast doctor", "CPU  avx512 [1]", "A CPU"):
        assert part in text
    assert "font-face" not in picture


@names(sorted((ROOT / "docs" / "pictures").glob("*.svg")))
def test_a_picture_is_on_a_page_and_fetches_nothing(path: Path) -> None:
    picture = path.read_text(encoding="utf-8")
    assert "font-face" not in picture
    assert not re.search(r"(href|src|url)[=(]\W*https?:", picture)
    assert any(f"(pictures/{path.name})" in text for text in TEXTS.values())


def test_every_picture_of_a_command_is_there() -> None:
    assert {path.stem for path in (ROOT / "docs" / "pictures").glob("*.svg")} >= set(PICTURES)


def test_the_page_of_precisions_has_every_kernel_build() -> None:
    page = TEXTS[ROOT / "docs" / "precision.md"].partition("## What your CPU has")[2].partition("\n## ")[0]
    builds = re.findall(
        r"(?m)^BUILD\((\w+)", (ROOT / "csrc" / "isa" / "builds.inc").read_text(encoding="utf-8")
    )
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == sorted(set(builds), key=builds.index) != []


def test_readme_fits_on_a_few_screens() -> None:
    assert len(TEXTS[README].splitlines()) <= 120


def anchors_of(text: str) -> set[str]:
    """What a link to a heading of the page may say, as MkDocs and repository pages make it of the heading."""
    titles = re.findall(r"(?m)^#{1,6} (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    plain = [re.sub(r"[^\w\s-]", "", title.lower()) for title in titles]
    return {re.sub(r"\s", "-", title.strip()) for title in plain}


OTHERS = [
    ROOT / name / "README.md" for name in ("benchmarks", "examples", "squeezebert_fast/models/sentiment")
]


@pytest.mark.parametrize("path", [*TEXTS, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)", path.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors_of(file.read_text(encoding="utf-8")), (
            f"{path.name}: {target}#{anchor}"
        )


@names([path for path, text in TEXTS.items() if PLACE.search(text)])
def test_the_tables_of_a_page_are_the_results(path: Path) -> None:
    assert filled(TEXTS[path]) == TEXTS[path], "run python -m benchmarks.tables"


def test_every_table_has_its_place_on_a_page() -> None:
    used = {place["name"] for text in TEXTS.values() for place in PLACE.finditer(text)}
    assert used == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_as_many_cells_in_each_row_and_says_by_which_command(name: str) -> None:
    lines = TABLES[name]().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) >= 3
    assert len({line.count(" | ") for line in rows}) == 1
    assert re.fullmatch(r"\*.+: `python -m benchmarks\.[^`]+`\*", lines[-1])
    assert " --out" not in lines[-1]


def test_a_table_changes_with_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test of the pages tests nothing."""
    from benchmarks.tables import markdown

    before = TABLES["memory"]()
    measured = json.loads((markdown.RESULTS / "memory.json").read_text(encoding="utf-8"))
    measured["rows"][0]["peak_bytes"] += 10**9
    monkeypatch.setattr("benchmarks.tables.costs.results", lambda name: measured)
    assert TABLES["memory"]() != before


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
