"""Data that was made for another task: the error says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.errors import InputError
from squeezebert_fast.training.file_kinds import CONLL, SQUAD, TABLE, kind_of
from squeezebert_fast.training.labels import refuse_numbers
from tests.cli_helpers import refuses, run
from tests.training_helpers import opinions, save_base, write_tsv

DATA = Path(__file__).parents[2] / "shared" / "data"
TAGGED = "anna\tB-PER\nlives\tO\nin\tO\nrome\tB-LOC\n\nbob\tB-PER\nlives\tO\n"
PARAGRAPH = {
    "context": "anna lives in rome",
    "qas": [{"id": "1", "question": "who lives in rome", "answers": [{"text": "anna", "answer_start": 0}]}],
}
SQUAD_JSON = json.dumps({"version": "v2.0", "data": [{"title": "a", "paragraphs": [PARAGRAPH]}]})
TEXTS = "text\tlabel\nit was a good film\tpos\nso it was\tneg\n"
FILES = {
    "tagged.conll": (TAGGED, CONLL),
    "tagged.txt": (TAGGED.replace("\t", " NN "), CONLL),
    "tagged.tsv": (TAGGED, CONLL),
    "plain.conll": ("the DT\ncat NN\n\na DT\ndog NN\n", CONLL),
    "squad.json": (SQUAD_JSON, SQUAD),
    "pretty.json": (json.dumps(json.loads(SQUAD_JSON), indent=2), SQUAD),
    "texts.tsv": (TEXTS, TABLE),
    "texts.csv": (TEXTS.replace("\t", ","), TABLE),
    "texts.txt": (TEXTS, TABLE),
    "texts.jsonl": (
        '{"text": "it was a good film", "label": "pos"}\n{"text": "so", "label": "neg"}\n',
        TABLE,
    ),
    "lines.txt": ("it was a good film\nso it was\n\nand a third one\n", None),
    "empty.txt": ("", None),
    "short.tsv": ("the\tDT\ncat\tNN\n", None),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_shows_what_it_was_made_for(name: str, tmp_path: Path) -> None:
    content, kind = FILES[name]
    (tmp_path / name).write_text(content)
    assert kind_of(str(tmp_path / name)) == kind
    assert kind_of(str(tmp_path)) is kind_of("-") is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not there")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sst2/dev.tsv", TABLE),
        ("banking77/test.csv", TABLE),
        ("snli_dev/dev.csv", TABLE),
        ("wnut17/dev.conll", CONLL),
        ("xquad_en/xquad.en.json", SQUAD),
    ],
)
def test_public_data_sets_show_what_they_were_made_for(name: str, kind: str) -> None:
    assert kind_of(str(DATA / name)) == kind


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        (
            "tagged.conll",
            "classification",
            "it looks like a CoNLL file, words with tags, which --task token-class",
        ),
        ("tagged.tsv", "classification", "no column 'text'; it has anna, B-PER; it looks like a CoNLL file"),
        ("squad.json", "classification", "it looks like a SQuAD file, which --task question-answering reads"),
        (
            "squad.json",
            "token-classification",
            "it looks like a SQuAD file, which --task question-answering reads",
        ),
        ("texts.tsv", "token-classification", "it looks like a table, which --task classification reads"),
        ("texts.csv", "token-classification", "it looks like a table, which --task classification reads"),
        ("texts.jsonl", "question-answering", "is not valid JSON: Extra data"),
        ("texts.jsonl", "question-answering", "it looks like a table, which --task classification reads"),
        ("tagged.conll", "question-answering", "it looks like a CoNLL file"),
        ("texts.tsv", "regression", "the label is 'pos', expected a finite number; --task classification"),
    ],
)
def test_a_file_for_another_task_is_refused_with_that_tasks_name(
    name: str, task: str, said: str, tmp_path: Path
) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    (tmp_path / name).write_text(FILES[name][0])
    refuses("finetune", tmp_path / name, "-m", base, "-o", tmp_path / "out", "--task", task, said=said)


def test_evaluating_on_a_file_for_another_task_names_it_too(tmp_path: Path) -> None:
    model = save_base(SqueezeBertForSequenceClassification, tmp_path / "model")
    (tmp_path / "t.conll").write_text(TAGGED)
    refuses("evaluate", tmp_path / "t.conll", "-m", model, said="which --task token-classification reads")
    numbers = write_tsv(tmp_path / "n.tsv", [("good", "2.5"), ("bad", "0.2")])
    refuses("evaluate", numbers, "-m", model, said="--task regression learns and measures numbers")


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([str(at / 10) for at in range(50)] * 3, True),
        (["0.4", "2.6", "3.1"], True),
        ([str(at * at) for at in range(30)], True),
        (["0", "1"] * 3, False),
        ([str(at) for at in range(150)], False),
        ([str(at) for at in range(151) if at != 42] * 2, False),
        (["0.5", "1.0", "1.5", "2.0"] * 9, False),
        (["1.0", "0.0"] * 9, False),
        (["a", "0.5"], False),
        (["1", "2", "10"], False),
        (["nan", "0.5"], False),
    ],
)
def test_many_numbers_are_no_names(labels: list[str], numbers: bool) -> None:
    if numbers:
        with pytest.raises(InputError, match="--task regression learns numbers"):
            refuse_numbers(labels)
    else:
        refuse_numbers(labels)


def test_numbers_to_learn_are_classes_only_for_those_who_say_so(tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    rows: list[Any] = [(text, f"{len(text) / 7:.3f}") for text, _ in opinions(48, 1)]
    how = ["finetune", write_tsv(tmp_path / "t.tsv", rows), "-m", base, "-o", tmp_path / "out"]
    refuses(*how, said="different numbers, from ")
    assert run(*how, "--task", "classification", "--max-steps", 1).exit_code == 0
