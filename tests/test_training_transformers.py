"""Models of transformers are trained, measured, distilled and averaged as they are."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from squeezebert_fast.errors import StorageError
from squeezebert_fast.pretrained import find, save, save_tokenizer
from squeezebert_fast.training.distillation import same_tokens
from tests.cli_helpers import refuses, run, succeeds
from tests.full_disk import files_of_at_most
from tests.training_helpers import assert_same_end, opinions, summary_of, trains, write_tsv, write_vocab
from tests.transformers_folders import (
    MODEL_TYPES,
    make_sentence_folder,
    make_tokenizer,
    save_folder,
    transformers_class,
)

HEADS = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "multiple-choice": "ForMultipleChoice",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}
QUICK = ("--epochs", 1, "--batch-size", 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    """For each task its file, and the options that go with it."""
    path = tmp_path_factory.mktemp("data")
    write_tsv(path / "labels.tsv", opinions(48, 0))
    write_tsv(path / "numbers.tsv", [(text, str(len(text))) for text, _ in opinions(16, 2)])
    choices = [("film was", "good", "bad", "0"), ("who saw", "rome", "anna", "1")] * 8
    write_tsv(path / "choices.tsv", choices, header=("text", "a", "b", "label"))
    sentence = "anna B-PER\nlives O\nin O\nrome B-LOC"
    (path / "names.conll").write_text("\n\n".join([sentence] * 8) + "\n")
    answer = {"text": "anna", "answer_start": 0}
    asked = [{"id": str(at), "question": "who lives in rome", "answers": [answer]} for at in range(8)]
    paragraph = {"context": "anna lives in rome and bob in paris and carl in london", "qas": asked}
    (path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    return {
        "classification": (path / "labels.tsv",),
        "regression": (path / "numbers.tsv",),
        "multiple-choice": (path / "choices.tsv", "--choice-columns", "a,b"),
        "token-classification": (path / "names.conll",),
        "question-answering": (path / "squad.json",),
    }


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("task", HEADS)
def test_every_task_trains_every_family(
    data: dict[str, tuple[object, ...]], model_type: str, task: str, tmp_path: Path
) -> None:
    base = save_folder(model_type, "Model", tmp_path / "base")
    given = data[task]
    extra = ("--max-length", 14) if task == "question-answering" else ()
    trains("finetune", *given, "--task", task, "-m", base, "-o", tmp_path / "out", *QUICK, *extra)
    cls = transformers_class(model_type, HEADS[task])
    model, report = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert not list((tmp_path / "out").glob(".*"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").is_fast
    before = transformers_class(model_type, "Model").from_pretrained(base)
    changed = zip(before.parameters(), model.base_model.parameters(), strict=False)
    assert any(not torch.equal(a, b) for a, b in changed)
    measured = json.loads(
        succeeds("evaluate", *given, "-m", tmp_path / "out", "--json", "--precision", "float32,bfloat16,int8")
    )
    assert set(measured) == {"float32", "bfloat16", "int8"}


def test_a_model_learns(data: dict[str, tuple[object, ...]], tmp_path: Path) -> None:
    base = save_folder("bert", "Model", tmp_path / "base", initializer_range=0.1)
    file = data["classification"][0]
    options = ["--dev", file, "-m", base, "-o", tmp_path / "out", "--epochs", 12, "--learning-rate", "3e-3"]
    trains("finetune", file, *options, "--batch-size", 16)
    assert summary_of(tmp_path / "out")["best"]["dev"]["accuracy"] > 0.9
    said = json.loads(succeeds("evaluate", file, "-m", tmp_path / "out", "--json"))["float32"]
    assert said["accuracy"] == summary_of(tmp_path / "out")["best"]["dev"]["accuracy"]
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "neg", 1: "pos"}


def test_a_stopped_run_goes_on_to_the_same_end(
    data: dict[str, tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_folder("bert", "Model", tmp_path / "base", hidden_dropout_prob=0.1)
    file = data["classification"][0]
    command = [
        "finetune",
        file,
        "--dev",
        file,
        "-m",
        base,
        "--epochs",
        2,
        "--batch-size",
        8,
        "--save-every",
        2,
    ]
    trains(*command, "-o", tmp_path / "whole")
    from squeezebert_fast.training.loop import Trainer

    step = Trainer._step

    def killed(self: Any, stop: Any) -> None:
        if self.progress.step == 7:
            raise KeyboardInterrupt
        step(self, stop)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", killed)
        assert run(*command, "-o", tmp_path / "parts").exit_code == 130
    (tmp_path / "parts" / ".0123abcd.tmp").mkdir()  # as a kill amid saving leaves it
    trains(*command, "-o", tmp_path / "parts", "--resume")
    assert not list((tmp_path / "parts").glob(".*"))
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_a_model_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_folder("bert", "Model", tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()
    model = transformers.BertModel.from_pretrained(folder)
    with torch.no_grad():
        model.pooler.dense.bias.add_(1)

    def fails(directory: Any, **options: Any) -> None:
        (Path(directory) / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(model, "save_pretrained", fails)
        with pytest.raises(OSError, match="no space left"):
            save(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    save(model, folder)
    assert torch.equal(
        transformers.BertModel.from_pretrained(folder).pooler.dense.bias, model.pooler.dense.bias
    )
    assert not list(folder.glob(".*"))


def test_a_sentence_transformers_folder_is_trained_from_its_transformer(
    data: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    for inside in ("", "0_Transformer"):
        base = make_sentence_folder(tmp_path / f"m{inside}", inside=inside)
        out = tmp_path / f"out{inside}"
        trains("finetune", *data["classification"], "-m", base, "-o", out, *QUICK)
        succeeds("predict", "-m", out, "-", stdin="a good film\n")


def test_more_labels_than_before_make_a_new_head(data: dict[str, tuple[object, ...]], tmp_path: Path) -> None:
    head = "ForSequenceClassification"
    base = save_folder("bert", head, tmp_path / "base", id2label={0: "a", 1: "b", 2: "c"})
    result = run("finetune", *data["classification"], "-m", base, "-o", tmp_path / "out", *QUICK)
    assert "initialised at random: classifier.bias, classifier.weight\n" in result.stderr
    same = save_folder(
        "bert", head, tmp_path / "same", id2label={0: "pos", 1: "neg"}, label2id={"pos": 0, "neg": 1}
    )
    assert "random" not in trains(
        "finetune", *data["classification"], "-m", same, "-o", tmp_path / "o", *QUICK
    )
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert config["label2id"] == {"pos": 0, "neg": 1}


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("task", ["classification", "token-classification", "question-answering"])
def test_a_teacher_teaches_a_student_of_its_family(
    data: dict[str, tuple[object, ...]], model_type: str, task: str, tmp_path: Path
) -> None:
    labels = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
    if task == "token-classification":
        labels = {"id2label": {0: "O", 1: "B-LOC", 2: "B-PER"}, "label2id": {"O": 0, "B-LOC": 1, "B-PER": 2}}
    teacher = save_folder(model_type, HEADS[task], tmp_path / "teacher", **labels)
    base = save_folder(model_type, "Model", tmp_path / "base", num_hidden_layers=1, seed=9)
    models = ["--teacher", teacher, "-m", base, "--hidden", 0.5]
    trains("distill", *data[task], "--task", task, *models, "-o", tmp_path / "out", *QUICK)
    assert summary_of(tmp_path / "out")["steps"] > 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_new_squeezebert_learns_from_every_family(
    data: dict[str, tuple[object, ...]], model_type: str, tmp_path: Path
) -> None:
    teacher = save_folder(
        model_type, "ForSequenceClassification", tmp_path / "teacher", id2label={0: "neg", 1: "pos"}
    )
    sizes = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--vocab", write_vocab(tmp_path)]
    trains("distill", *data["classification"], "--teacher", teacher, *sizes, "-o", tmp_path / "out", *QUICK)


def test_a_teacher_of_another_task_is_refused(data: dict[str, tuple[object, ...]], tmp_path: Path) -> None:
    teacher = save_folder("roberta", "ForTokenClassification", tmp_path / "teacher")
    base = save_folder("roberta", "Model", tmp_path / "base")
    command = ["distill", *data["classification"], "--teacher", teacher, "-m", base, "-o", tmp_path / "out"]
    refuses(*command, said="is a RobertaForTokenClassification, not fine-tuned for classification")


def test_tokenizers_are_the_same_whatever_they_did_last(tmp_path: Path) -> None:
    one, other = make_tokenizer("bert", tmp_path), make_tokenizer("bert", tmp_path)
    one(["a", "film was good"], padding=True, truncation=True, max_length=3)
    assert same_tokens(one, other)
    assert not same_tokens(one, make_tokenizer("roberta", tmp_path))


def test_runs_are_averaged(tmp_path: Path) -> None:
    folders = [
        save_folder("bert", "ForSequenceClassification", tmp_path / str(seed), seed) for seed in (1, 2)
    ]
    succeeds("average", *folders, "-o", tmp_path / "mean")
    cls = transformers.BertForSequenceClassification
    one, two, mean = (cls.from_pretrained(folder) for folder in (*folders, tmp_path / "mean"))
    for a, b, m in zip(one.parameters(), two.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close((a + b) / 2, m)
    succeeds("predict", "-m", tmp_path / "mean", "-", stdin="a good film\n")
    other = save_folder("bert", "Model", tmp_path / "other")
    refuses("average", folders[0], other, "-o", tmp_path / "no", said="is a BertModel, but")


def test_pretrain_goes_on_with_one(tmp_path: Path) -> None:
    base = save_folder("roberta", "ForMaskedLM", tmp_path / "base")
    (tmp_path / "text.txt").write_text("it was a good film and so on\n" * 40)
    trains("pretrain", tmp_path / "text.txt", "-m", base, "-o", tmp_path / "out", *QUICK)
    text = "it was a <mask> film"
    assert succeeds("fill-mask", "-m", tmp_path / "out", text) != succeeds("fill-mask", "-m", base, text)


def test_what_cannot_be_trained_is_refused(data: dict[str, tuple[object, ...]], tmp_path: Path) -> None:
    base = save_folder("bert", "ForSequenceClassification", tmp_path / "base")
    succeeds("quantize", base, tmp_path / "int8")

    def refused(model: Path, said: str, *options: object) -> None:
        command = ["finetune", *data["classification"], "-m", model, "-o", tmp_path / "out", *options]
        refuses(*command, said=said)
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "int8", "is an int8 checkpoint, which can't be trained")
    refused(base, "max_length is 65, but the model takes 64 tokens at most", "--max-length", 65)
    wordy = tmp_path / "wordy"
    shutil.copytree(save_folder("bert", "Model", tmp_path / "small", vocab_size=20), wordy)
    refused(wordy, "tokens, but the model's vocab_size is 20")
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / "model.safetensors").unlink()
    refused(broken, "transformers can't load")


def test_a_full_disk_leaves_no_half_of_a_model_or_tokenizer(tmp_path: Path) -> None:
    """transformers writes in place, and its tokenizer raises a plain Exception."""
    base = save_folder("bert", "Model", tmp_path / "base")
    stored = find(base)
    model, tokenizer = stored.load_as_saved(), stored.tokenizer()
    for write in (functools.partial(save, model), functools.partial(save_tokenizer, tokenizer)):
        for size in (0, 1000):
            with (
                files_of_at_most(size),
                pytest.raises(StorageError, match="can't be written: File too large"),
            ):
                write(tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
    save_tokenizer(tokenizer, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
