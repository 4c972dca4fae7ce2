"""A new classifier is fitted to the encoder as it is, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.training import head_start
from squeezebert_fast.training.head_start import (
    PENALTY,
    RIDGE_PENALTIES,
    logistic_regression,
    ridge,
)
from tests.training_helpers import (
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


def test_a_regression_is_where_its_loss_is_least() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(300, 7) * torch.arange(1, 8) + 5, torch.randint(3, (300,))
    weight, bias = logistic_regression(x, labels, 3)
    mean, spread = x.double().mean(0), x.double().std(0, correction=0)
    standard = (weight.double() * spread).requires_grad_()
    offset = (bias.double() + weight.double() @ mean).requires_grad_()
    logits = F.linear((x.double() - mean) / spread, standard, offset)
    torch.testing.assert_close(logits, F.linear(x.double(), weight.double(), bias.double()))
    loss = F.cross_entropy(logits, labels) + PENALTY / (2 * len(x)) * standard.square().sum()
    loss.backward()
    for parameter in (standard, offset):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-3


def test_channels_that_say_nothing_do_no_harm() -> None:
    x = torch.cat([torch.tensor([[-1.0], [1.0]]).repeat(20, 1), torch.full((40, 1), 3.0)], 1)
    labels = torch.tensor([0, 1]).repeat(20)
    weight, bias = logistic_regression(x, labels, 2)
    assert weight.isfinite().all()
    assert weight[:, 1].abs().max() < 1e-3
    assert (F.linear(x, weight, bias).argmax(1) == labels).all()
    same, _ = logistic_regression(torch.ones(8, 3), labels[:8], 2)
    assert same.isfinite().all()


def error_of_each_by_the_others(x: Tensor, y: Tensor, penalty: float) -> float:
    """By as many regressions as there are rows, of inputs that all are standardised together."""
    total = 0.0
    for at in range(len(y)):
        others = torch.arange(len(y)) != at
        rows = torch.cat([x[others], torch.ones(len(y) - 1, 1).double()], 1)
        gram = rows.T @ rows
        gram.diagonal()[:-1].add_(penalty)
        found = torch.linalg.solve(gram, rows.T @ y[others])
        total += float(x[at] @ found[:-1] + found[-1] - y[at]) ** 2
    return total


@pytest.mark.parametrize(("rows", "noise"), [(200, 1.0), (20, 3.0), (12, 30.0)])
def test_a_ridge_is_where_its_loss_is_least_with_the_penalty_that_predicts_best(
    rows: int, noise: float
) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, 8) * torch.arange(1, 9) + 3
    numbers = 1000 + x @ torch.arange(8.0) + noise * torch.randn(rows)
    weight, bias = ridge(x, numbers)
    assert (weight.shape, bias.shape, weight.dtype) == ((1, 8), (1,), torch.float32)
    mean, spread = x.double().mean(0), x.double().std(0, correction=0)
    standard, y = (x.double() - mean) / spread, numbers.double()
    penalty = min(RIDGE_PENALTIES, key=lambda each: error_of_each_by_the_others(standard, y, each))
    gram = standard.T @ standard
    gram.diagonal().add_(penalty)
    expected = torch.linalg.solve(gram, standard.T @ (y - y.mean()))
    torch.testing.assert_close(weight.double()[0] * spread, expected, rtol=1e-4, atol=1e-4)
    predicted = F.linear(x, weight, bias).squeeze(1)
    torch.testing.assert_close(predicted.double(), standard @ expected + y.mean(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("constant", [False, True])
def test_a_ridge_of_what_says_nothing_is_the_mean(constant: bool) -> None:
    weight, bias = ridge(torch.ones(8, 3), torch.full((8,), 2.5) if constant else torch.arange(8.0))
    assert F.linear(torch.ones(1, 3), weight, bias).item() == pytest.approx(2.5 if constant else 3.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    write_small_run(folder)
    return folder


def with_head(folder: Path, output: str, *more: object) -> list[object]:
    return [part for part in small_run(folder, output, *more) if part != "--no-head-first"]


def test_training_begins_with_the_regressions_score_and_never_ends_below(folder: Path) -> None:
    trains(*with_head(folder, "fitted", "--learning-rate", 1e-9))
    evaluations = [line for line in log_of(folder / "fitted") if "dev" in line]
    assert [line["step"] for line in evaluations] == [0, 3, 4, 6, 8]
    trains(*small_run(folder, "random", "--learning-rate", 1e-9))
    first = next(line for line in log_of(folder / "random") if "dev" in line)
    assert evaluations[0]["dev"]["loss"] < first["dev"]["loss"]
    assert summary_of(folder / "fitted")["best"]["dev"]["accuracy"] >= evaluations[0]["dev"]["accuracy"]


def first_evaluation(output: Path) -> dict[str, Any]:
    return next(line for line in log_of(output) if "dev" in line)


def test_numbers_begin_with_the_ridges_score_however_far_from_0_they_are(tmp_path: Path) -> None:
    """Which steps of the usual size never reach: the model would explain nothing."""
    rows = [(text, "1000" if label == "neg" else "1010") for text, label in opinions(64, 1)]
    data, base = write_tsv(tmp_path / "train.tsv", rows), save_base(SqueezeBertModel, tmp_path / "base")
    for how in ("--head-first", "--no-head-first"):
        output = tmp_path / how
        trains(
            *("finetune", data, "--dev", data, "-m", base, "-o", output, "--task", "regression", how),
            *("--epochs", 1, "--batch-size", 16, "--max-length", 16, "--threads", 1),
        )
    fitted, random = (first_evaluation(tmp_path / how) for how in ("--head-first", "--no-head-first"))
    assert (fitted["step"], random["step"]) == (0, 4)
    assert 0 < fitted["dev"]["r2"] <= 1
    assert random["dev"]["r2"] < -1000


def test_words_begin_with_the_regressions_score(tmp_path: Path) -> None:
    """Which learns from the first token of each word alone, as the model does."""
    lines = [
        f"{word}\t{'B-X' if word == 'unbelievable' else 'O'}\n" + "\n" * (at % 3 == 2)
        for at, word in enumerate(["good", "unbelievable", "bad", "unbelievable", "film"] * 12)
    ]
    data, base = tmp_path / "train.conll", save_base(SqueezeBertModel, tmp_path / "base")
    data.write_text("".join(lines))
    trains(
        *(
            "finetune",
            data,
            "--dev",
            data,
            "-m",
            base,
            "-o",
            tmp_path / "out",
            "--task",
            "token-classification",
        ),
        *("--epochs", 1, "--batch-size", 8, "--max-length", 16, "--threads", 1),
    )
    first = first_evaluation(tmp_path / "out")
    assert first["step"] == 0
    assert first["dev"]["f1"] > 0.9


def test_no_more_labels_are_fitted_to_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_start, "ROWS", 20)
    texts, sentences = [{"label": 1}] * 50, [{"words": [0, 1, 2]}] * 50
    assert len(head_start._some(texts, 0)) == 20
    assert len(head_start._some(sentences, 0)) == 7  # 21 words
    assert len(head_start._some(texts[:5], 0)) == 5


def test_it_is_resumed_to_the_same_bits(folder: Path) -> None:
    trains(*with_head(folder, "whole"))
    trains(*with_head(folder, "resumed", "--max-steps", 4, "--epochs", 2))
    assert state_of(folder / "resumed")["step"] == 4
    before_any_checkpoint = folder / "anew"
    trains(*with_head(folder, "anew"))
    (before_any_checkpoint / "training_state.pt").unlink()
    trains(*with_head(folder, "anew", "--resume"))
    assert_same_end(before_any_checkpoint, folder / "whole")


def test_a_head_that_was_trained_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    labels = {0: "neg", 1: "pos"}
    trained = save_base(SqueezeBertForSequenceClassification, tmp_path / "trained", id2label=labels)
    data = write_tsv(tmp_path / "train.tsv", opinions(24, 1))
    how = ["--max-steps", 1, "--batch-size", 8, "--max-length", 16, "--threads", 1]
    for base, first in ((trained, 1), (save_base(SqueezeBertModel, tmp_path / "base"), 0)):
        out = tmp_path / f"out{first}"
        trains("finetune", data, "--dev", data, "-m", base, "-o", out, *how)
        assert next(line["step"] for line in log_of(out) if "dev" in line) == first
