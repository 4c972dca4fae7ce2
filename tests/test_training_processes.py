"""Two processes that torchrun started train as one does."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from squeezebert_fast import SqueezeBertForMaskedLM, SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.training.run_folder import STATE
from tests.full_disk import files_of_at_most
from tests.training_helpers import (
    FILLERS,
    PEOPLE,
    assert_same_end,
    log_of,
    opinions,
    save_base,
    small_run,
    state_of,
    summary_of,
    trains,
    write_small_run,
    write_tsv,
)

PATIENCE = 300.0  # seconds until hanging processes fail the test


needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo"
)


def launched(*arguments: object, program: str = "from squeezebert_fast.cli import main; main()") -> list[str]:
    """The command that starts two processes of Python's `program`: of `squeezebert-fast arguments`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, "--no-python", sys.executable, "-c", program, *map(str, arguments)]


def torchrun(*arguments: object) -> str:
    """What they print; they must end well."""
    result = subprocess.run(launched(*arguments), capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    return result.stdout


GROUP_ENDS = """
import weakref, torch, torch.distributed as dist
from squeezebert_fast.training.processes import Processes
with Processes.joined(torch.device("cpu")) as processes:
    group = weakref.ref(dist.group.WORLD)
    torch.optim.AdamW([torch.zeros(2, requires_grad=True)])  # imports what keeps a group
    assert processes.gather(processes.rank) == [0, 1]
assert group() is None
"""


@needs_gloo
def test_no_thread_of_the_group_outlives_it() -> None:
    """One that did could abort a process whose interpreter is ending (twice in eight runs under load)."""
    result = subprocess.run(launched(program=GROUP_ENDS), capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr


@needs_gloo
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

    said = torchrun(*arguments, "-o", two)
    assert said.count("best dev f1") == 1  # one of them speaks

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


@pytest.mark.slow
@needs_gloo
def test_two_processes_pretrain_as_one(tmp_path: Path) -> None:
    """Blocks of unknown words among the others: in some steps one process has nothing to predict, in some both."""
    known, unknown = "it was a film and so on that we saw in paris it", "xyz " * 13  # 14 tokens with [SEP]
    (tmp_path / "text.txt").write_text("\n".join([known, unknown, unknown] * 4))
    base = save_base(
        SqueezeBertForMaskedLM, tmp_path / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    arguments = [
        "pretrain", tmp_path / "text.txt", "--dev", tmp_path / "text.txt", "-m", base, "--epochs", 2,
        "--batch-size", 2, "--learning-rate", 1e-2, "--max-length", 16, "--log-every", 1, "--threads", 1,
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    trains(*arguments, "-o", one)
    torchrun(*arguments, "-o", two)
    for ours, theirs in zip(log_of(two), log_of(one), strict=True):
        if "dev" in ours:
            assert ours["dev"] == pytest.approx(theirs["dev"], rel=1e-3)
        else:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)


@pytest.mark.slow
@needs_gloo
def test_two_processes_resume_a_run_to_the_same_bits(tmp_path: Path) -> None:
    """Stopped by SIGTERM, which torchrun passes on, after the first checkpoint; a teacher speaks in each step."""
    train = write_tsv(tmp_path / "train.tsv", opinions(24, 1))
    labels = {0: "neg", 1: "pos"}
    teacher = save_base(SqueezeBertForSequenceClassification, tmp_path / "teacher", id2label=labels)
    student = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--groups", 4]
    arguments = [
        "distill", train, "--dev", train, "--teacher", teacher, *student, "--hidden", 1, "--batch-size", 8,
        "--learning-rate", 1e-2, "--max-length", 32, "--log-every", 1, "--epochs", 60, "--threads", 1,
        "--save-every", 1,
    ]  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    torchrun(*arguments, "-o", whole)
    run = subprocess.Popen(launched(*arguments, "-o", stopped), stderr=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while not (stopped / STATE).exists():
            assert run.poll() is None
            assert time.monotonic() < began + PATIENCE
            time.sleep(0.02)
        run.terminate()
        run.wait(PATIENCE)
    finally:
        run.kill()
    assert 0 < state_of(stopped)["step"] < 180
    torchrun(*arguments, "-o", stopped, "--resume")
    assert_same_end(whole, stopped)


@needs_gloo
def test_a_full_disk_ends_all_processes_with_a_line(tmp_path: Path) -> None:
    """Only the first writes; the others must not wait for it."""
    write_small_run(tmp_path)
    command = launched(*small_run(tmp_path, "out"))
    state = 40_000  # bytes: the best model fits, the checkpoint doesn't
    with files_of_at_most(state):
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    said = [line for line in result.stderr.splitlines() if line.startswith("squeezebert-fast: ")]
    errors = [line for line in said if "warning" not in line]
    assert result.returncode == 1, result.stderr
    assert len(errors) == 2
    assert all(
        "can't be written: [Errno 27] File too large; there is no checkpoint yet" in line for line in errors
    )
    assert list((tmp_path / "out").glob(".*")) == []
    torchrun(*small_run(tmp_path, "out"), "--resume")
    assert (tmp_path / "out" / STATE).stat().st_size > state
    assert summary_of(tmp_path / "out")["steps"] == 8
