"""Least squares from the teacher: a single convolution, a whole student, and what can't be fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from squeezebert_fast import SqueezeBertConfig, SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.errors import TrainingError
from squeezebert_fast.modeling.layers import PointwiseConv1d
from squeezebert_fast.training.fitting import TOKENS, fit, fit_to_teacher, texts_to_fit
from squeezebert_fast.training.inheritance import copy_from_teacher
from tests.cli_helpers import refuses
from tests.training_helpers import SIZES, opinions, save_base, trains, write_tsv

WORDS = {index: index for index in range(SIZES["vocab_size"])}
GROUPS = ("q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups")


def model(groups: int, layers: int = 2, **fields: Any) -> SqueezeBertModel:
    torch.manual_seed(groups)
    sizes = {**SIZES, "num_hidden_layers": layers, **dict.fromkeys(GROUPS, groups), **fields}
    return SqueezeBertModel(SqueezeBertConfig(**sizes)).eval()


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Rows of different lengths; the padding is of a token that means nothing."""
    torch.manual_seed(0)
    ids = torch.randint(5, SIZES["vocab_size"], (200, 12))
    mask = (torch.arange(12) < torch.randint(3, 13, (200, 1))).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def distance(a: SqueezeBertModel, b: SqueezeBertModel, batch: dict[str, torch.Tensor]) -> float:
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = (each(**batch).last_hidden_state[real] for each in (a, b))
    return float((ours - theirs).square().mean() / theirs.var())


@pytest.mark.parametrize("groups", [1, 3])
def test_a_convolution_gets_the_weights_that_made_the_targets(groups: int) -> None:
    torch.manual_seed(0)
    source, target = PointwiseConv1d(12, 6, groups=groups), PointwiseConv1d(12, 6, groups=groups)
    x = torch.randn(500, 12) + 3
    with torch.no_grad():
        fit(target, x, source(x))
    torch.testing.assert_close(target.weight, source.weight, rtol=0.01, atol=1e-2)
    torch.testing.assert_close(target(x), source(x), rtol=0.01, atol=1e-2)


def test_a_student_like_its_teacher_becomes_it(batch: dict[str, torch.Tensor]) -> None:
    teacher, student = model(1), model(1, initializer_range=0.02)
    copy_from_teacher(student, teacher, WORDS)
    for name, parameter in student.named_parameters():
        if "encoder" in name and "layernorm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert distance(student, teacher, batch) > 0.1
    fit_to_teacher(student, teacher, batch, WORDS)
    assert distance(student, teacher, batch) < 0.01


def test_a_fitted_student_of_more_groups_is_nearer_than_the_blocks_alone(
    batch: dict[str, torch.Tensor],
) -> None:
    teacher, student = model(1), model(4)
    copy_from_teacher(student, teacher, WORDS)
    before = distance(student, teacher, batch)
    fit_to_teacher(student, teacher, batch, WORDS)
    assert distance(student, teacher, batch) < 0.8 * before
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in teacher.modules())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in student.modules())


def test_what_cannot_be_fitted_is_refused(batch: dict[str, torch.Tensor]) -> None:
    with pytest.raises(TrainingError, match="intermediate_size is 64, the teacher's 32"):
        fit_to_teacher(model(1, intermediate_size=64), model(1), batch, WORDS)
    with pytest.raises(TrainingError, match="no token for its id 9"):
        fit_to_teacher(model(2), model(1), batch, {k: v for k, v in WORDS.items() if k != 9})
    with pytest.raises(TrainingError, match="only a float SqueezeBERT"):
        fit_to_teacher(model(2), torch.nn.Linear(1, 1), batch, WORDS)


def test_the_texts_are_the_longest_of_a_sample_and_the_same_for_a_seed() -> None:
    rows = [{"input_ids": [0] * (at % 40 + 1)} for at in range(6000)]
    chosen = texts_to_fit(rows, 7)
    lengths = [len(row["input_ids"]) for row in chosen]
    assert TOKENS <= sum(lengths) < TOKENS + 40
    assert min(lengths) >= 30
    assert [id(row) for row in chosen] == [id(row) for row in texts_to_fit(rows, 7)]
    assert texts_to_fit(rows[:3], 7) == sorted(rows[:3], key=lambda row: -len(row["input_ids"]))


def distilling(folder: Path, **teacher: Any) -> list[object]:
    """A command that distils a teacher, with these fields of its configuration, into a new model."""
    write_tsv(folder / "train.tsv", opinions(64, 1))
    labels = {0: "neg", 1: "pos"}
    known = save_base(
        SqueezeBertForSequenceClassification,
        folder / "teacher",
        num_hidden_layers=2,
        id2label=labels,
        **teacher,
    )
    student = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--intermediate-size", 32, "--groups", 4]
    how = ["--threads", 1, "--max-steps", 1, "--init-from-teacher"]
    return ["distill", folder / "train.tsv", "--teacher", known, *student, *how]


def test_distill_fits_before_it_trains(tmp_path: Path) -> None:
    how = distilling(tmp_path)
    trains(*how, "-o", tmp_path / "out", "--fit-to-teacher", "--hidden", 1)
    how.remove("--init-from-teacher")
    refuses(
        *how, "-o", tmp_path / "no", "--fit-to-teacher", said="--fit-to-teacher needs --init-from-teacher"
    )


def test_texts_to_fit_are_no_longer_than_teacher_or_student_takes(tmp_path: Path) -> None:
    how = [*distilling(tmp_path, max_position_embeddings=8), "--fit-to-teacher", "-o", tmp_path / "out"]
    refuses(*how, "--max-length", 600, said="max_length is 600, but the model takes 512 tokens at most")
    trains(*how)
