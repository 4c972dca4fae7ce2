"""Running the command line in this process, and small models with a tokenizer for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from squeezebert_fast import SqueezeBertConfig, SqueezeBertTokenizerFast
from squeezebert_fast.cli import app
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.streams import PROGRAM

DATA = Path(__file__).parent / "data"
VOCAB = DATA / "vocab.txt"


def save_model(cls: type[SqueezeBertPreTrainedModel], directory: Path, **fields: Any) -> Path:
    """A directory with a random model over the real vocabulary, wide enough apart for texts to differ."""
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
    }
    cls(SqueezeBertConfig(**{**sizes, **fields})).save_pretrained(directory)
    SqueezeBertTokenizerFast(VOCAB).save_pretrained(directory)
    return directory


def run(*arguments: object, stdin: str | bytes | None = None, **environment: str) -> Any:
    """The result (`exit_code`, `stdout`, `stderr`) of `squeezebert-fast arguments`."""
    words = [str(argument) for argument in arguments]
    threads = torch.get_num_threads()  # --threads is for the process, which here goes on
    try:
        return CliRunner().invoke(app, words, input=stdin, env=environment, prog_name=PROGRAM)
    finally:
        torch.set_num_threads(threads)


def succeeds(*arguments: object, stdin: str | bytes | None = None) -> str:
    """stdout of a command that must end well, silent on stderr."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr == ""
    return result.stdout


def benched(report: Path, *arguments: object) -> Any:
    """What `bench` writes to `report`; it must end well, but may warn that others use this machine too."""
    result = run("bench", *arguments, "--output", report)
    assert result.exit_code == 0, result.stderr or result.exception
    assert all("don't rely on these times" in line for line in result.stderr.splitlines()), result.stderr
    return json.loads(report.read_text(encoding="utf-8"))


def refuses(*arguments: object, said: str, stdin: str | bytes | None = None) -> None:
    """The command must end with exit code 2 and one line on stderr that contains `said`."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2, (result.exit_code, result.exception, result.stdout)
    assert result.stderr.startswith("squeezebert-fast: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.endswith("\n")
    assert said in result.stderr, result.stderr
