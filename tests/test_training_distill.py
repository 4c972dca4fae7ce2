"""`squeezebert-fast distill`: soft targets from every kind of teacher, and what can't teach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
    save_quantized,
)
from squeezebert_fast.training.distillation import joined, soft_loss
from squeezebert_fast.training.inheritance import copy_from_teacher
from tests.cli_helpers import refuses
from tests.training_helpers import (
    SIZES,
    VOCAB,
    assert_same_end,
    log_of,
    opinions,
    save_base,
    summary_of,
    trains,
    write_tsv,
    write_vocab,
)

QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--max-length", 32, "--threads", 1]
SMALL = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--groups", 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a teacher that has learnt from them, with its labels in another order."""
    path = tmp_path_factory.mktemp("distill")
    write_tsv(path / "train.tsv", opinions(128, 1))
    write_tsv(path / "dev.tsv", opinions(48, 2))
    base = save_base(
        SqueezeBertForSequenceClassification, path / "base", id2label={0: "pos", 1: "neg"}, hidden_size=32
    )
    trains(
        "finetune", path / "train.tsv", "--dev", path / "dev.tsv", "-m", base, "-o", path / "teacher",
        "--epochs", 6, *QUICK,
    )  # fmt: skip
    assert summary_of(path / "teacher")["best"]["dev"]["accuracy"] > 0.95
    return path


def test_soft_loss_is_the_definition() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    p, q = (teacher.double() / 2).softmax(-1), (student.double() / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum()
    torch.testing.assert_close(soft_loss(student, teacher, 2.0).double(), expected)
    assert soft_loss(teacher, teacher, 2.0).abs() < 1e-5
    numbers = torch.tensor([[1.0], [4.0]]), torch.tensor([[3.0], [1.0]])
    assert soft_loss(*numbers, 2.0) == 4 + 9


def test_rows_of_different_width_are_joined_without_changing_their_probabilities() -> None:
    rows = [torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.0]])]
    both = joined(rows)
    assert both.shape == (2, 3)
    torch.testing.assert_close(both[1].softmax(-1), torch.tensor([*rows[1][0].softmax(-1), 0.0]))


def test_a_student_learns_from_the_teacher_alone(folder: Path, tmp_path: Path) -> None:
    """Every label in the student's file is wrong; alpha 1 leaves them out, and the teacher knows better."""
    wrong = [(text, {"pos": "neg", "neg": "pos"}[label]) for text, label in opinions(128, 1)]
    train = write_tsv(tmp_path / "wrong.tsv", wrong)
    files = ["distill", train, "--dev", folder / "dev.tsv", "--teacher", folder / "teacher"]
    trains(*files, *SMALL, "-o", tmp_path / "soft", "--alpha", 1, "--epochs", 6, *QUICK)
    assert summary_of(tmp_path / "soft")["best"]["dev"]["accuracy"] > 0.9
    trains(*files, *SMALL, "-o", tmp_path / "hard", "--alpha", 0, "--epochs", 6, *QUICK)
    assert log_of(tmp_path / "hard")[-1]["dev"]["accuracy"] < 0.1


def test_alpha_0_is_finetuning(folder: Path, tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    options = ["-m", base, "--dev", folder / "dev.tsv", "--max-steps", 4, *QUICK]
    trains("finetune", folder / "train.tsv", "-o", tmp_path / "a", *options, "--no-head-first")
    teacher = ["--teacher", folder / "teacher", "--alpha", 0]
    trains("distill", folder / "train.tsv", "-o", tmp_path / "b", *teacher, *options)
    for ours, theirs in zip(log_of(tmp_path / "a"), log_of(tmp_path / "b"), strict=True):
        assert ours.get("loss") == theirs.get("loss")
        assert ours.get("dev") == theirs.get("dev")


def test_a_distillation_resumes(folder: Path, tmp_path: Path) -> None:
    files = ["distill", folder / "train.tsv", "--dev", folder / "dev.tsv", "--teacher", folder / "teacher"]
    how = [*files, *SMALL, "--epochs", 2, "--save-every", 3, *QUICK]
    trains(*how, "-o", tmp_path / "whole")
    trains(*how, "-o", tmp_path / "again")
    (tmp_path / "again" / "metrics.json").unlink()
    (tmp_path / "again" / "training_state.pt").unlink()  # as if it had been killed before the first
    trains(*how, "-o", tmp_path / "again", "--resume")
    assert_same_end(tmp_path / "whole", tmp_path / "again")
    refuses(*how, "-o", tmp_path / "whole", "--resume", "--alpha", 0.9, said="alpha is 0.9, but the run")


def test_an_int8_teacher_teaches(folder: Path, tmp_path: Path) -> None:
    save_quantized(
        SqueezeBertForSequenceClassification.from_pretrained(folder / "teacher"), tmp_path / "int8"
    )
    SqueezeBertTokenizerFast.from_pretrained(folder / "teacher").save_pretrained(tmp_path / "int8")
    options = ["--teacher", tmp_path / "int8", *SMALL, "--max-steps", 1, *QUICK]
    trains("distill", folder / "train.tsv", "-o", tmp_path / "out", *options)


def test_teachers_of_other_families_teach_with_their_own_tokens(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 60,
        "num_labels": 2,
        "id2label": {0: "neg", 1: "pos"},
        "label2id": {"neg": 0, "pos": 1},
    }
    words = [*VOCAB[:5], *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *"abcdefghijklmnopqrstuvwxyz"]
    vocab = tmp_path / "letters.txt"
    vocab.write_text("\n".join(words) + "\n")
    bert = transformers.BertConfig(
        **sizes, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    distilbert = transformers.DistilBertConfig(**sizes, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    models = {
        "bert": transformers.BertForSequenceClassification(bert),
        "distilbert": transformers.DistilBertForSequenceClassification(distilbert),
    }
    losses = {}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        transformers.BertTokenizerFast(vocab=str(vocab)).save_pretrained(tmp_path / name)
        SqueezeBertTokenizerFast(vocab).save_vocabulary(tmp_path / name)
        options = ["--teacher", tmp_path / name, *SMALL, "--vocab", write_vocab(tmp_path), "--alpha", 1]
        more = ["--max-steps", 1, "--log-every", 1, *QUICK]
        trains("distill", folder / "train.tsv", "-o", tmp_path / f"{name}-out", *options, *more)
        losses[name] = log_of(tmp_path / f"{name}-out")[0]["loss"]
    assert all(0 < loss < 1 for loss in losses.values())
    assert losses["bert"] != losses["distilbert"]


def test_a_new_student_starts_with_what_fits_of_the_teacher(folder: Path, tmp_path: Path) -> None:
    deep = save_base(SqueezeBertForSequenceClassification, tmp_path / "deep", num_hidden_layers=4)
    teacher = SqueezeBertForSequenceClassification.from_pretrained(deep)
    config = type(teacher.config)(**{**SIZES, "num_hidden_layers": 2, "q_groups": 1})
    student = SqueezeBertForSequenceClassification(config)
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    copied = copy_from_teacher(student, teacher, {index: index for index in range(teacher.config.vocab_size)})
    theirs = dict(teacher.named_parameters())
    changed = 0
    for name, parameter in student.named_parameters():
        source = (
            name.replace("layers.0", "layers.X")
            .replace("layers.1", "layers.3")
            .replace("layers.X", "layers.1")
        )
        if theirs[source].shape == parameter.shape and "classifier" not in name:
            assert torch.equal(parameter, theirs[source]), name
            changed += parameter.numel()
        else:
            assert torch.equal(parameter, before[name]), name
    assert copied == changed
    assert "q" in "".join(
        name for name in before if not torch.equal(before[name], theirs.get(name, before[name]))
    )

    options = ["--teacher", folder / "teacher", "--max-steps", 1, *QUICK]
    trains(
        "distill", folder / "train.tsv", "-o", tmp_path / "init", "--init-from-teacher",
        "--layers", 1, "--hidden-size", 32, "--heads", 2, "--intermediate-size", 32, *options,
    )  # fmt: skip
    refuses(
        "distill", folder / "train.tsv", "-o", tmp_path / "no", "--init-from-teacher",
        "--layers", 1, "--hidden-size", 24, "--heads", 2, *options, said="nothing of the teacher",
    )  # fmt: skip


def test_what_cannot_teach_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(teacher: Path, *more: object, said: str) -> None:
        options = ["--teacher", teacher, *(more or SMALL), "--max-steps", 1, *QUICK]
        refuses("distill", folder / "train.tsv", "-o", tmp_path / "out", *options, said=said)
        assert not (tmp_path / "out").exists()

    labels = {0: "a", 1: "b"}
    other = save_base(SqueezeBertForSequenceClassification, tmp_path / "other", id2label=labels)
    tags = save_base(SqueezeBertForTokenClassification, tmp_path / "tags")
    refused(tags, said="is a SqueezeBertForTokenClassification, expected a SqueezeBertForSequence")
    refused(tmp_path / "none", said="is not a directory")
    refused(folder / "teacher", *SMALL, "--alpha", 1.5, said="alpha is 1.5")
    refused(folder / "teacher", *SMALL, "--temperature", 0, said="temperature is 0")
    refused(
        folder / "teacher", "-m", other, "--init-from-teacher", said="--init-from-teacher is for a new model"
    )
    refused(folder / "teacher", "--threads", 1, said="give either --model, or the sizes")
    refused(other, said="the data's labels are 'neg', 'pos', the teacher's 'a', 'b'; if")

    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    refused(other, said="pip install squeezebert-fast[transformers]")


def test_labels_that_are_numbers_fit_a_teacher_with_names(folder: Path, tmp_path: Path) -> None:
    names = {0: "NEGATIVE", 1: "POSITIVE"}
    teacher = save_base(SqueezeBertForSequenceClassification, tmp_path / "named", id2label=names)
    train = write_tsv(tmp_path / "numbers.tsv", opinions(32, 1, labels=("0", "1")))
    options = ["--teacher", teacher, *SMALL, "--max-steps", 1, *QUICK]
    trains("distill", train, "-o", tmp_path / "out", *options)
    student = SqueezeBertConfig.from_json_file(tmp_path / "out" / "config.json")
    assert student.id2label == names  # it answers as its teacher does
