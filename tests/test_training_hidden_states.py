"""Distillation of hidden states: the distance, what it does to a student, and what can't be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from squeezebert_fast import (
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
)
from squeezebert_fast.training.distillation import hidden_distance
from tests.cli_helpers import refuses
from tests.training_helpers import (
    FILLERS,
    PEOPLE,
    assert_same_end,
    log_of,
    opinions,
    save_base,
    state_of,
    trains,
    write_tsv,
)

QUICK = ["--batch-size", 16, "--learning-rate", 5e-3, "--max-length", 32, "--threads", 1, "--log-every", 1]
# Without dropout, which would draw other masks where a batch is cut in another way.
STUDENT = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--groups", 4, "--dropout", 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a teacher with random weights: its hidden states are as good as any."""
    path = tmp_path_factory.mktemp("hidden")
    write_tsv(path / "train.tsv", opinions(40, 1))
    names = {"id2label": {0: "pos", 1: "neg"}, "num_hidden_layers": 2}
    save_base(SqueezeBertForSequenceClassification, path / "teacher", **names)
    save_base(SqueezeBertForTokenClassification, path / "tagger", id2label={0: "B-PER", 1: "O"})
    return path


def distill(folder: Path, *more: object) -> list[object]:
    return ["distill", folder / "train.tsv", "--teacher", folder / "teacher", *STUDENT, *QUICK, *more]


def test_the_distance_is_the_definition() -> None:
    torch.manual_seed(0)
    student = [torch.randn(2, 3, 4) for _ in range(3)]  # embeddings and 2 layers
    teacher = [torch.randn(2, 3, 4) for _ in range(5)]  # embeddings and 4 layers
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    expected = []
    for row, tokens in ((0, 3), (1, 1)):
        terms = [
            ((student[ours][row, t] - teacher[theirs][row, t]).norm() / teacher[theirs][row, t].norm()) ** 2
            for ours, theirs in ((1, 2), (2, 4))
            for t in range(tokens)
        ]
        expected.append(sum(terms) / len(terms))
    torch.testing.assert_close(hidden_distance(student, teacher, mask), torch.stack(expected))
    assert hidden_distance(student, student, mask).tolist() == [0, 0]


def test_choices_share_a_row() -> None:
    torch.manual_seed(0)
    states = [torch.randn(2 * 3, 4, 5) for _ in range(2)], [torch.randn(2 * 3, 4, 5) for _ in range(2)]
    mask = torch.ones(2, 3, 4, dtype=torch.long)
    alone = hidden_distance(*states, mask.flatten(0, 1))
    torch.testing.assert_close(hidden_distance(*states, mask), alone.view(2, 3).mean(1))


def test_hidden_states_come_nearer_to_the_teachers(folder: Path, tmp_path: Path) -> None:
    """With alpha 1 and a huge temperature nothing but the distance is left of the loss."""
    only = ["--alpha", 1, "--temperature", 1e4, "--hidden", 1, "--epochs", 8]
    trains(*distill(folder, *only, "-o", tmp_path / "out"))
    losses = [line["loss"] for line in log_of(tmp_path / "out")]
    assert losses[-1] < 0.6 * losses[0]


def test_a_student_with_some_of_the_teachers_words_can_compare(folder: Path, tmp_path: Path) -> None:
    options = ["--vocab-size", 28, "--init-from-teacher", "--hidden", 1, "--epochs", 1]
    trains(*distill(folder, *options, "-o", tmp_path / "out"))
    student = SqueezeBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.vocab_size == 28
    assert student.config.hidden_dropout_prob == 0


def test_a_run_with_hidden_states_resumes_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    how = distill(folder, "--hidden", 1, "--epochs", 2, "--save-every", 2)
    trains(*how, "-o", tmp_path / "whole")
    trains(*how, "-o", tmp_path / "again")
    (tmp_path / "again" / "training_state.pt").unlink()
    trains(*how, "-o", tmp_path / "again", "--resume")
    assert_same_end(tmp_path / "whole", tmp_path / "again")
    refuses(*how, "-o", tmp_path / "whole", "--resume", "--hidden", 2, said="hidden is 2.0, but the run")


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(folder: Path, tmp_path: Path) -> None:
    """Sentences with different numbers of labels, in one pass and in three."""
    lines = [[f"{word}\tO" for word in FILLERS[:length]] + [f"{PEOPLE[0]}\tB-PER"] for length in range(1, 9)]
    train = tmp_path / "train.conll"
    train.write_text("\n\n".join("\n".join(each) for each in lines) + "\n")
    how = ["distill", train, "--task", "token-classification", "--teacher", folder / "tagger", "--hidden", 1]
    for parts in (1, 3):
        more = ["--epochs", 3, "--accumulate", parts, "-o", tmp_path / str(parts)]
        trains(*how, *STUDENT, *QUICK, *more)
    for ours, theirs in zip(log_of(tmp_path / "1"), log_of(tmp_path / "3"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    a, b = (state_of(tmp_path / name)["model"] for name in ("1", "3"))
    for name in a:
        if not name.endswith("key.bias"):  # softmax doesn't feel it: its gradient is nothing but rounding
            torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-3, msg=name)


def test_what_cannot_be_compared_is_refused(folder: Path, tmp_path: Path) -> None:
    how = distill(folder, "--max-steps", 1, "-o", tmp_path / "out")
    refuses(*how, "--hidden", 1, "--hidden-size", 24, said="the teacher's have 16 channels, the student's 24")
    refuses(*how, "--hidden", -1, said="--hidden")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n")
    refuses(*how, "--hidden", 1, "--vocab", vocab, said="cut the texts into different tokens")
    refuses(*how, "--vocab-size", 28, "--vocab", vocab, said="--vocab gives another")
    refuses(*how, "--vocab-size", 3, said="vocab_size is 3, expected from")
    assert not (tmp_path / "out").exists()
