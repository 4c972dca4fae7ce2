"""docs/troubleshooting.md has every reason that the code can give for not using a kernel."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "squeezebert_fast"

SOURCES = (
    *(
        PACKAGE / "backends" / f"{name}.py"
        for name in ("__init__", "request", "cpu", "cpu_encoder", "triton")
    ),
    PACKAGE / "backends" / "assembler.py",
    *(
        PACKAGE / "patching" / f"{name}.py"
        for name in ("obstacles", "engines", "plan", "linear", "embeddings")
    ),
    PACKAGE / "patching" / "explain.py",
    *sorted((PACKAGE / "patching" / "families").glob("*.py")),
    PACKAGE / "ops" / "attention.py",
)
NO_REASONS = {"described", "shared_memory_rows", "version"}
"""Functions that return text of another kind: what `doctor` says of a working GPU."""
ERRORS = {" (AMX: …)", "an index is out of its table's range"}
"""Parts of an error's text."""


def reasons_of(source: str) -> Iterator[str]:
    """What functions that return text return, what is given as an `obstacle`, and what a backend is chosen for.

    `…` stands for what is filled in.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "str" in ast.unparse(node.returns or ast.Constant(None)):
            if node.name not in NO_REASONS:
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
                yield from _sentences(returned)
        elif isinstance(node, ast.keyword) and node.arg == "obstacle":
            yield from _sentences([node.value])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in ("CHANGED", "COMPILING", "SCORES", "obstacle", "plan", "reason"):
                yield from _sentences([node.value])
        elif (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "plan"
        ):
            yield from _sentences([node.value])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Choice"):
            yield from _sentences(list(node.args[1:]))


def _sentences(nodes: list[ast.expr | None]) -> Iterator[str]:
    waiting: list[ast.AST] = [node for node in nodes if node is not None]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
        elif isinstance(
            node, (ast.IfExp, ast.BoolOp, ast.Tuple, ast.GeneratorExp, ast.Call, ast.NamedExpr, ast.Dict)
        ):
            waiting += ast.iter_child_nodes(node)


def in_code() -> set[str]:
    found = {reason for path in SOURCES for reason in reasons_of(path.read_text(encoding="utf-8"))}
    refused = (ROOT / "csrc" / "core" / "cpu_features.cpp").read_text(encoding="utf-8")
    body = refused.partition("refusal_of_tiles(uint64_t state) {")[2].partition("\n}\n")[0]
    of_tiles = re.findall(r'return "([^"]+)"( \+ reason)?;', body)
    return {reason for reason in found - ERRORS if " " in reason} | {
        f"{text}{'…' if more else ''}" for text, more in of_tiles
    }


def on_page() -> set[str]:
    sections = PAGE.partition("## What good looks like")[2].partition("## Commands")[0]
    return set(re.findall(r"(?m)^\| `([^`]+)` \|", sections))


def test_the_page_and_the_code_have_the_same_reasons() -> None:
    assert on_page() == in_code()


def test_reasons_are_found_in_code() -> None:
    source = """
def refusal(x) -> str | None:
    if x:
        return f"the dtype is {x}, not float32"
    return other(x) or "autocast is active" if x else None
"""
    assert set(reasons_of(source)) == {"the dtype is …, not float32", "autocast is active"}
    assert len(in_code()) > 60
