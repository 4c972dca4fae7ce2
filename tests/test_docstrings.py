"""Each public function and class says what it raises or takes, and has an example that runs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import squeezebert_fast
from squeezebert_fast import ops
from squeezebert_fast.loading import checkpoint
from squeezebert_fast.tokenization.encoding import EncodingTokenizer
from tests.minilm import minilm_directory

PUBLIC = {name: getattr(squeezebert_fast, name) for name in squeezebert_fast.__all__}
OPERATIONS = {name: getattr(ops, name) for name in ops.__all__ if name != "reference"}
DOCUMENTED: dict[str, Any] = {
    **{
        name: thing
        for name, thing in PUBLIC.items()
        if callable(thing) and not (inspect.isclass(thing) and issubclass(thing, BaseException))
    },
    **OPERATIONS,
    "squeezebert_fast": squeezebert_fast,
    "load_pretrained": checkpoint.load_pretrained,
    "save_pretrained": checkpoint.save_pretrained,
    "Tokenizer.__call__": EncodingTokenizer.__call__,
}
"""What must have an example: all that can be called but errors, and what the methods of models and tokenizers say."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an example runs: a folder with the real weights that some of them load."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_an_example_in_a_docstring_holds(name: str, folder: Path) -> None:
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    assert ">>> " in text, f"{name} has no example"
    assert "+SKIP" not in text
    if "all-MiniLM-L6-v2" in text:
        (folder / "all-MiniLM-L6-v2").symlink_to(minilm_directory(), target_is_directory=True)
    names = {"torch": torch, "squeezebert_fast": squeezebert_fast, **PUBLIC, **OPERATIONS}
    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    said: list[str] = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert tried
    assert not failed, "".join(said)


@pytest.mark.parametrize(
    "name", sorted(name for name, each in DOCUMENTED.items() if inspect.isfunction(each))
)
def test_a_function_says_what_it_raises(name: str) -> None:
    assert "aises" in (inspect.getdoc(DOCUMENTED[name]) or "")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_says_shapes_of_every_argument_and_its_source(name: str) -> None:
    operation: Callable[..., Any] = OPERATIONS[name]
    text = inspect.getdoc(operation) or ""
    assert "Source: " in text
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    for parameter in inspect.signature(operation).parameters:
        assert parameter in arguments, f"{parameter} isn't explained"
