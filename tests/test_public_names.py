"""What `import squeezebert_fast` offers, and that it stays cheap until something is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import squeezebert_fast


@pytest.mark.parametrize("name", squeezebert_fast.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(squeezebert_fast, name) is getattr(squeezebert_fast, name)
    assert name in dir(squeezebert_fast)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(squeezebert_fast.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("squeezebert_fast")]
    assert {alias.name for node in ours for alias in node.names} == set(squeezebert_fast.__all__)
    assert len(set(squeezebert_fast.__all__)) == len(squeezebert_fast.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SqueezeBertForEverything'"):
        squeezebert_fast.SqueezeBertForEverything  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, squeezebert_fast; print({'torch', 'numpy', 'transformers'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
