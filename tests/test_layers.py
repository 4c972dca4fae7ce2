"""The package has floors: a module imports what lies below it, or its own package's modules, without a circle.

Read from the sources, so that every import counts wherever it stands: at the top, in a function, where a circle would
only show once it is called, and under TYPE_CHECKING, since a reader must then know that module too. An import of a
module runs the `__init__` of its packages as well, but for those that the importer is in. A name in a string is no
import: by one, a lower floor leaves a choice to a higher one (QUANTIZED_MODEL in loading/checkpoint.py).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
NAME = "squeezebert_fast"

# From the ground up. Modules and packages that share a floor don't know each other.
FLOORS = (
    ("errors", "version", "_native", "triton_kernels"),
    ("activations", "shipped", "signals", "streams"),
    ("storage",),
    ("backends", "configuration_interface", "tables", "tokenization", "trained_with"),
    ("configuration", "diagnostics", "ops", "sentence"),
    ("loading",),
    ("modeling",),
    ("patching",),
    ("pretrained",),
    ("benchmark", "trainer", "training"),
    ("answering",),
    ("ray", "serving"),
    ("cli",),
    ("__main__",),
    ("",),  # squeezebert_fast/__init__.py, which offers names of all floors and which none may import
)


class Import(NamedTuple):
    """That a module imports another, both by their full names, and where it says so."""

    importer: str
    imported: str
    place: str


def sources(root: Path) -> dict[str, Path]:
    """Every module of the package in `root`, by its full name, and its file."""
    package = root / NAME
    found = [*package.rglob("*.py"), *package.rglob("*.pyi")]
    found += (package / "triton_kernels").rglob("*.py")  # a link, which rglob doesn't follow by itself
    parts = {path: path.relative_to(root).with_suffix("").parts for path in sorted(found)}
    return {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in parts.items()}


def packages_of(module: str) -> list[str]:
    """A module's full name, and before it those of the packages that it is in, outermost first."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def imports(root: Path) -> Iterator[Import]:
    """Every import of the package's modules by each other."""
    modules = sources(root)
    for importer, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _names(node, importer, path.name == "__init__.py"):
                known = [module for module in packages_of(name) if module in modules]
                run = [module for module in known[:-1] if module not in packages_of(importer)]
                for imported in {*known[-1:], *run} - {importer}:
                    yield Import(importer, imported, f"{path.relative_to(root)}:{node.lineno}")


def _names(node: ast.AST, importer: str, is_package: bool) -> list[str]:
    """What a statement imports: full names of modules, or of what is in them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    start = packages_of(importer)[: None if is_package else -1]
    base = ".".join(filter(None, [start[-node.level] if node.level else "", node.module]))
    return [f"{base}.{alias.name}" for alias in node.names]


def unit(module: str) -> str:
    """The part of the package that a module belongs to, as FLOORS names it."""
    return module.split(".")[1] if "." in module else ""


def upward(root: Path) -> list[str]:
    """The imports of what doesn't lie below, a line each that says where."""
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    return [
        f"{place}: {importer} imports {imported}, which doesn't lie below it"
        for importer, imported, place in imports(root)
        if unit(importer) != unit(imported) and floor[unit(importer)] <= floor[unit(imported)]
    ]


def circle(root: Path) -> list[str]:
    """The imports of one circle of modules, a line each that says where; none if there is no circle."""
    places = {(found.importer, found.imported): found.place for found in imports(root)}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in places:
        sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        modules = error.args[1][::-1]  # it gives each before what imports it
        return [f"{places[pair]}: {pair[0]} imports {pair[1]}" for pair in pairwise(modules)]
    return []


def test_every_module_has_a_floor() -> None:
    assert sorted(name for names in FLOORS for name in names) == sorted({unit(m) for m in sources(ROOT)})


def test_imports_go_down() -> None:
    assert not upward(ROOT), "\n".join(upward(ROOT))


def test_modules_form_no_circle() -> None:
    assert not circle(ROOT), "\n".join(circle(ROOT))


@pytest.mark.parametrize(
    "statement",
    [
        "from squeezebert_fast.cli import group",
        "import squeezebert_fast.cli.group as g",
        "from ..cli.group import fail",
        "def f():\n    from squeezebert_fast.cli.group import fail",
        "if TYPE_CHECKING:\n    from squeezebert_fast.cli.group import fail",
    ],
)
def test_an_import_upward_is_found_wherever_it_stands(statement: str, tmp_path: Path) -> None:
    package(tmp_path, {"loading/hub.py": statement, "cli/group.py": "import squeezebert_fast.loading.hub"})
    place = f"{NAME}/loading/hub.py:{statement.count(chr(10)) + 1}"
    found = f"{place}: {NAME}.loading.hub imports {NAME}.cli.group, which doesn't lie below it"
    assert found in upward(tmp_path)
    assert len(circle(tmp_path)) == 2


def test_importing_the_package_itself_is_upward(tmp_path: Path) -> None:
    package(tmp_path, {"cli/group.py": "from squeezebert_fast import patch", "loading/hub.py": ""})
    assert upward(tmp_path) == [
        f"{NAME}/cli/group.py:1: {NAME}.cli.group imports {NAME}, which doesn't lie below it"
    ]


def test_a_package_is_run_by_whoever_imports_from_it(tmp_path: Path) -> None:
    package(tmp_path, {"cli/__init__.py": "import squeezebert_fast.loading.hub", "cli/group.py": ""})
    package(tmp_path, {"loading/hub.py": "from squeezebert_fast.cli.group import fail"})
    assert len(circle(tmp_path)) == 2  # of cli/__init__.py and loading/hub.py


def test_a_package_and_its_modules_form_no_circle_by_its_init(tmp_path: Path) -> None:
    package(tmp_path, {"ops/__init__.py": "from .conv import conv", "ops/reference.py": ""})
    package(tmp_path, {"ops/conv.py": "from squeezebert_fast.ops import reference"})
    assert circle(tmp_path) == upward(tmp_path) == []


def package(root: Path, files: dict[str, str]) -> None:
    """Write files of a package of this name, with an empty `__init__.py` where none is among them."""
    for name, text in files.items():
        path = root / NAME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent, root / NAME):
            (folder / "__init__.py").touch()
        path.write_text(text)


def test_every_package_is_installed() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    lists = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    packages = [name for name, path in sources(ROOT).items() if path.name == "__init__.py"]
    assert sorted(ast.literal_eval(lists["PACKAGES"])) == sorted(packages)


def test_all_but_the_command_line_runs_without_typer() -> None:
    needing = ("__main__", "cli", "serving", "trainer", "triton_kernels")  # Ray Serve itself needs click
    modules = [name for name in sources(ROOT) if unit(name) not in needing]
    program = "import sys; sys.modules['typer'] = sys.modules['click'] = sys.modules['transformers'] = None\n"
    program += "".join(f"import {name}\n" for name in modules)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
