"""A new classifier is fitted to the encoder as it is, before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.training.head_start import PENALTY, logistic_regression
from squeezebert_fast.training.settings import Settings
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


def test_a_wider_model_learns_in_smaller_steps_and_a_new_one_in_larger() -> None:
    assert Settings().filled(768, new_model=False).learning_rate == pytest.approx(5e-5)
    assert Settings().filled(384, new_model=False).learning_rate == pytest.approx(1e-4)
    assert Settings().filled(128, new_model=True).learning_rate == pytest.approx(2e-3)
    assert Settings(learning_rate=3e-5).filled(128, new_model=True).learning_rate == 3e-5
