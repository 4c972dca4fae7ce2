"""Small data that can be learnt in seconds, and the runs that tests of training share."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel, SqueezeBertTokenizerFast
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.training import loop
from tests.cli_helpers import run

GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")
PEOPLE = ("anna", "bob", "carl")
FILLERS = ("it", "was", "a", "film", "and", "so", "on", "that", "we", "saw")
WORDS = (*GOOD, *BAD, *FILLERS, "who", "paris", "rome", "anna", "bob", "lives", "in", "london", "carl")
VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCAB),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
    "initializer_range": 0.1,  # so small a model hardly starts to learn from smaller weights
    "q_groups": 2,
    "k_groups": 2,
    "v_groups": 2,
}


def write_vocab(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return path


def save_base(cls: type[SqueezeBertPreTrainedModel], folder: Path, seed: int = 3, **fields: Any) -> Path:
    """A random model over the small vocabulary, with its tokenizer."""
    torch.manual_seed(seed)
    cls(SqueezeBertConfig(**{**SIZES, **fields})).save_pretrained(folder)
    SqueezeBertTokenizerFast(write_vocab(folder)).save_pretrained(folder)
    return folder


def opinions(count: int, seed: int, labels: Sequence[str] = ("neg", "pos")) -> list[tuple[str, str]]:
    """Texts of different lengths, each with one word that says its label."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.randrange(2)
        words = chance.choices(FILLERS, k=chance.randrange(2, 12))
        words.insert(chance.randrange(len(words)), chance.choice((BAD, GOOD)[label]))
        rows.append((" ".join(words), labels[label]))
    return rows


def write_tsv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = ("text", "label")) -> Path:
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    return path


def write_small_run(folder: Path) -> None:
    """What `small_run` trains: a base and data."""
    save_base(SqueezeBertModel, folder / "base")
    write_tsv(folder / "train.tsv", opinions(60, 1))
    write_tsv(folder / "dev.tsv", opinions(20, 2))


def small_run(folder: Path, output: str, *more: object) -> list[object]:
    """Two epochs of four steps, averaged, evaluated every three steps and after each epoch, saved every two."""
    files = ["finetune", folder / "train.tsv", "--dev", folder / "dev.tsv", "-m", folder / "base"]
    how = ["--epochs", 2, "--batch-size", 16, "--learning-rate", 1e-2, "--average", 0.9, "--no-head-first"]
    size = ["--max-length", 16, "--threads", 1]
    when = ["--evaluate-every", 3, "--save-every", 2, "--log-every", 3]
    return [*files, "-o", folder / output, *how, *size, *when, *more]


class Killed(Exception):
    """Stands for SIGKILL, of which some tests have a real one: no code of the package catches it."""


def kill_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.Trainer._report

    def report(self: loop.Trainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.progress.step == step:
            raise Killed

    monkeypatch.setattr(loop.Trainer, "_report", report)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def trains(*arguments: object) -> str:
    """stdout of a command that trains and must end well; a warning of a new head is no failure."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    assert all("initialised at random" in line for line in result.stderr.splitlines()), result.stderr
    return result.stdout


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "training_state.pt", weights_only=True)


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor in nested dicts and lists, by its path."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key: tensor for at, part in items for key, tensor in tensors(part, f"{name}/{at}").items()}


def assert_same_end(folder: Path, other: Path) -> None:
    """Two runs must have ended with the same bits: parameters, optimizer, best model, log but for times."""
    ours, theirs = tensors(state_of(folder)), tensors(state_of(other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name

    def untimed(path: Path) -> list[dict[str, Any]]:
        timed = ("seconds", "tokens_per_second")
        return [{k: v for k, v in line.items() if k not in timed} for line in log_of(path)]

    assert untimed(folder) == untimed(other)
    assert summary_of(folder)["best"] == summary_of(other)["best"]
