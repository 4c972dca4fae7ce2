"""Two processes that torchrun started train as one does."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from squeezebert_fast import SqueezeBertModel
from tests.training_helpers import FILLERS, PEOPLE, log_of, save_base, state_of, summary_of, trains

PATIENCE = 300.0  # seconds until hanging processes fail the test


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
def test_two_processes_are_one_with_the_same_batch(tmp_path: Path) -> None:
    """Sentences of different lengths, so that processes have different numbers of labels; batches of 15, 15 and 1."""
    chance = random.Random(0)
    train = tmp_path / "train.conll"
    sentences = [
        [f"{word}\tO" for word in chance.choices(FILLERS, k=chance.randrange(1, 14))]
        + [f"{chance.choice(PEOPLE)}\tB-PER"]
        for _ in range(31)
    ]
    train.write_text("\n\n".join("\n".join(lines) for lines in sentences) + "\n")
    # Dropout would draw another mask in each process.
    base = save_base(
        SqueezeBertModel, tmp_path / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    arguments = [
        "finetune", train, "--dev", train, "-m", base, "--task", "token-classification", "--epochs", 2,
        "--batch-size", 15, "--accumulate", 2, "--learning-rate", 1e-2, "--max-length", 32, "--log-every", 1,
        "--threads", 1,
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    trains(*arguments, "-o", one)

    program = [sys.executable, "-c", "from squeezebert_fast.cli import main; main()"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    command = [*torchrun, *program, *(str(argument) for argument in [*arguments, "-o", two])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best dev f1") == 1  # one of them speaks

    assert summary_of(two)["processes"] == 2
    for ours, theirs in zip(log_of(two), log_of(one), strict=True):
        if "dev" in ours:
            assert ours["dev"] == pytest.approx(theirs["dev"], rel=1e-3)
        else:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)
    a, b = state_of(one)["model"], state_of(two)["model"]
    for name in a:
        if not name.endswith("key.bias"):  # softmax doesn't feel it: its gradient is nothing but rounding
            torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-3, msg=name)
