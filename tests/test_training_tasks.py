"""The other tasks learn from their files' formats, and read and score them right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
)
from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import QuestionAnsweringModelOutput
from squeezebert_fast.training.tasks.questions import QuestionAnswering
from squeezebert_fast.training.tasks.sequences import SequenceClassification, TableColumns
from squeezebert_fast.training.tasks.tokens import TokenClassification
from tests.cli_helpers import refuses, succeeds
from tests.training_helpers import (
    FILLERS,
    PEOPLE,
    SIZES,
    VOCAB,
    save_base,
    summary_of,
    trains,
    write_vocab,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--threads", 1]
PLACES = ("paris", "rome", "london")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(SqueezeBertModel, tmp_path / "base")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SqueezeBertTokenizerFast:
    return SqueezeBertTokenizerFast(write_vocab(tmp_path_factory.mktemp("vocab")))


def config(**fields: Any) -> SqueezeBertConfig:
    return SqueezeBertConfig(**{**SIZES, **fields})


# Classification


def test_labels_that_differ_only_in_spelling_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """pandas makes 1.0 of a column's numbers where one is missing, and a hand-made CSV has spaces after commas."""
    task = SequenceClassification(TableColumns())
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(
            json.dumps({"text": "a", "label": label}) + "\n" for label in (1, 1.0, "pos", " pos", "Pos", "0")
        )
    )
    fields = task.label_fields(task.read(str(path)))
    assert sorted(fields["label2id"]) == [" pos", "0", "1", "1.0", "Pos", "pos"]
    assert [record.getMessage() for record in caplog.records] == [
        f"the labels {pair} differ only in spelling, and are two classes"
        for pair in ("'1' and '1.0'", "' pos' and 'Pos'", "' pos' and 'pos'")
    ]


# Token classification


def write_conll(path: Path, count: int, separator: str = "\t") -> Path:
    lines = ["-DOCSTART- -X- O O", ""]
    for at in range(count):
        person, place, filler = PEOPLE[at % 3], PLACES[at // 3 % 3], FILLERS[at % len(FILLERS)]
        tagged = [
            (filler, "O"),
            (person, "B-PER"),
            ("lives", "O"),
            ("in", "O"),
            (place, "B-LOC"),
            ("on", "I-LOC"),
        ]
        lines += [*(separator.join(pair) for pair in tagged), ""]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("separator", ["\t", " NN X "])
def test_entities_are_learnt_from_conll(separator: str, base: Path, tmp_path: Path) -> None:
    train, out = write_conll(tmp_path / "train.conll", 96, separator), tmp_path / "out"
    options = ["--task", "token-classification", "--epochs", 4, *QUICK]
    trains("finetune", train, "--dev", train, "-m", base, "-o", out, *options)
    assert summary_of(out)["best"]["dev"]["f1"] > 0.95
    assert SqueezeBertConfig.from_json_file(out / "config.json").label2id == {
        "O": 0, "B-LOC": 1, "B-PER": 2, "I-LOC": 3,
    }  # fmt: skip
    measured = json.loads(succeeds("evaluate", train, "-m", out, "--json"))["float32"]
    assert measured["f1"] == summary_of(out)["best"]["dev"]["f1"]


def test_entities_are_distilled_by_word(base: Path, tmp_path: Path) -> None:
    train = write_conll(tmp_path / "train.conll", 48)
    kind = ["--task", "token-classification"]
    trains("finetune", train, "-m", base, "-o", tmp_path / "teacher", *kind, "--epochs", 4, *QUICK)
    sizes = ["--layers", 1, "--hidden-size", 16, "--heads", 2]
    how = [
        "--teacher",
        tmp_path / "teacher",
        *sizes,
        *kind,
        "--alpha",
        1,
        "--epochs",
        6,
        "--max-length",
        32,
        *QUICK,
    ]
    trains("distill", train, "--dev", train, "-o", tmp_path / "out", *how)
    assert summary_of(tmp_path / "out")["best"]["dev"]["f1"] > 0.9
    other = tmp_path / "other.txt"
    other.write_text("\n".join(reversed(VOCAB)) + "\n")
    refuses(
        "distill",
        train,
        "-o",
        tmp_path / "no",
        *how,
        "--vocab",
        other,
        said="cut texts into different tokens",
    )


def test_a_word_has_one_label_and_what_is_cut_off_is_outside(
    tokenizer: SqueezeBertTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "t.conll"
    path.write_text("anna-bob\tB-X\nparis\tO\nrome\tB-X\n")
    task = TokenClassification()
    sentences = task.read(str(path))
    tags = {0: "O", 1: "B-X"}
    (row,) = task.encode(sentences, tokenizer, config(id2label=tags), 6)
    assert row["labels"] == [-100, 1, -100, -100, 0, -100]  # [CLS] anna - bob paris [SEP]
    assert task.score(sentences, [row], [[1, 0]])["recall"] == 0.5
    assert task.score(sentences, [row], [[1, 0]])["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a O\nb\n", "t.conll, line 2: 'b', expected a word and its tag"),
        ("a\t\n", "line 1: "),
        ("\n\n", "holds no words"),
        ("", "holds no texts"),
        ("a O\nb O\n", "every tag of the training data is 'O'"),
    ],
)
def test_what_is_not_conll_is_refused(content: str, said: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text(content)
    kind = ["--task", "token-classification"]
    refuses("finetune", tmp_path / "t.conll", "-m", base, "-o", tmp_path / "out", *kind, said=said)


# Multiple choice


def write_choices(path: Path, count: int) -> Path:
    rows = []
    for at in range(count):
        right, wrong = PEOPLE[at % 3], PLACES[at // 3 % 3]
        choices = [right, wrong] if at % 2 else [wrong, right]
        rows.append(
            {"premise": f"who {FILLERS[at % 10]}", "c0": choices[0], "c1": choices[1], "label": 1 - at % 2}
        )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_choices_are_learnt_and_distilled(base: Path, tmp_path: Path) -> None:
    train, out = write_choices(tmp_path / "train.jsonl", 96), tmp_path / "out"
    kind = ["--task", "multiple-choice", "--column", "premise", "--choice-columns", "c0,c1"]
    trains("finetune", train, "--dev", train, "-m", base, "-o", out, *kind, "--epochs", 6, *QUICK)
    assert summary_of(out)["best"]["dev"]["accuracy"] > 0.95
    columns = ["--column", "premise", "--choice-columns", "c0,c1"]
    measured = json.loads(succeeds("evaluate", train, "-m", out, "--json", *columns))["float32"]
    assert measured["accuracy"] == summary_of(out)["best"]["dev"]["accuracy"]
    student = ["--teacher", out, "--layers", 1, "--hidden-size", 16, "--heads", 2, *kind]
    trains("distill", train, "-o", tmp_path / "small", *student, "--max-steps", 1, *QUICK)


@pytest.mark.parametrize(
    ("row", "arguments", "said"),
    [
        (
            {"text": "a", "x": "b", "y": "c", "label": 2},
            ["--choice-columns", "x,y"],
            "line 1: the label is '2'",
        ),
        ({"text": "a", "x": "b", "y": "c", "label": -1}, ["--choice-columns", "x,y"], "the label is '-1'"),
        (
            {"text": "a", "x": "b", "y": "c", "label": 0},
            ["--choice-columns", "x,z"],
            "no column 'z'; it has text, x",
        ),
        ({"text": "a", "x": "b", "label": 0}, ["--choice-columns", "x"], "two choices at least"),
        ({"text": "a", "x": "b", "label": 0}, [], "two choices at least"),
        (
            {"text": "a", "label": 0},
            ["--pair-column", "x"],
            "--pair-column means nothing for multiple-choice",
        ),
    ],
)
def test_choices_that_make_no_sense_are_refused(
    row: dict[str, Any], arguments: list[str], said: str, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    kind = ["--task", "multiple-choice", *arguments]
    refuses("finetune", tmp_path / "t.jsonl", "-m", base, "-o", tmp_path / "out", *kind, said=said)


# Question answering


def squad(entries: list[tuple[str, str, str, int]]) -> dict[str, Any]:
    paragraphs = [
        {
            "context": context,
            "qas": [{"id": str(at), "question": q, "answers": [{"text": a, "answer_start": start}]}],
        }
        for at, (context, q, a, start) in enumerate(entries)
    ]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def lives(count: int, filler: int) -> list[tuple[str, str, str, int]]:
    entries = []
    for at in range(count):
        person, place = PEOPLE[at % 3], PLACES[at // 3 % 3]
        lead = " ".join(FILLERS[(at + k) % 10] for k in range(at % filler))
        context = f"{lead} {person} lives in {place} and so on".strip()
        entries.append((context, "who lives", person, context.index(person)))
    return entries


def test_answers_are_learnt_over_windows_and_distilled(base: Path, tmp_path: Path) -> None:
    """Each with something at its edges that no token has: only a target of its tokens can be learnt."""
    train, out = tmp_path / "train.json", tmp_path / "out"
    edges, entries = (" ", "\u00a0", "\u200b", "\ufeff", "\u00ad", "\x07"), []
    for at, (context, question, person, start) in enumerate(lives(96, 20)):
        answer = f"{edges[at % 6]}{person}{edges[at // 6 % 6]}"
        entries.append((context.replace(person, answer), question, answer, start))
    train.write_text(json.dumps(squad(entries)))
    kind = ["--task", "question-answering", "--stride", 6]
    how = [*kind, "--max-length", 20, "--epochs", 5, *QUICK]
    trains("finetune", train, "--dev", train, "-m", base, "-o", out, *how)
    best = summary_of(out)["best"]["dev"]
    assert best["exact_match"] > 0.9
    measured = succeeds("evaluate", train, "-m", out, "--json", "--stride", 6, "--max-length", 20)
    assert json.loads(measured)["float32"]["exact_match"] == best["exact_match"]
    student = ["--teacher", out, "--layers", 1, "--hidden-size", 16, "--heads", 2, *kind, "--max-length", 20]
    trains("distill", train, "-o", tmp_path / "small", *student, "--max-steps", 1, *QUICK)


def test_questions_without_an_answer_are_learnt_too(base: Path, tmp_path: Path) -> None:
    """Half of the paragraphs say where a person is from, and not who lives there."""
    data = squad(lives(96, 6))
    for paragraph in (article := data["data"][0])["paragraphs"][::2]:
        paragraph["context"] = paragraph["context"].replace("lives in", "saw")
        paragraph["qas"][0] |= {"answers": [], "is_impossible": True}
    assert len(article["paragraphs"]) == 96
    train, out = tmp_path / "train.json", tmp_path / "out"
    train.write_text(json.dumps(data))
    how = ["--task", "question-answering", "--max-length", 32, "--epochs", 6, *QUICK]
    trains("finetune", train, "--dev", train, "-m", base, "-o", out, *how)
    assert summary_of(out)["best"]["dev"]["exact_match"] > 0.9


def test_silence_is_an_answer_only_where_a_file_has_questions_without_one(
    tokenizer: SqueezeBertTokenizerFast, tmp_path: Path
) -> None:
    answered = squad([("anna lives in paris", "who lives", "anna", 0)])
    silent = squad([("anna lives in paris", "who lives", "anna", 0)])
    silent["data"][0]["paragraphs"][0]["qas"][0] |= {"answers": [], "is_impossible": True}
    task = QuestionAnswering()
    for data, expected in ((answered, 1.0), (silent, 1.0)):
        (tmp_path / "q.json").write_text(json.dumps(data))
        examples = task.read(str(tmp_path / "q.json"))
        rows = task.encode(examples, tokenizer, config(), 16)
        batch = task.collate(rows, 0, 0)
        starts = torch.zeros(batch["input_ids"].shape)
        starts[:, 0] = 9.0  # [CLS] before any span
        starts[:, rows[0]["inside"].index(1)] = 5.0
        ends = starts.clone()
        answers = task.answers(QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends), batch)
        assert task.score(examples, rows, answers)["exact_match"] == expected


def test_every_window_points_at_its_answer_or_at_cls(
    tokenizer: SqueezeBertTokenizerFast, tmp_path: Path
) -> None:
    context = " ".join(["it was a film and so on"] * 6) + " anna lives in paris"
    start = context.index("lives")
    (tmp_path / "q.json").write_text(json.dumps(squad([(context, "who lives", "lives in paris", start)])))
    task = QuestionAnswering(stride=4)
    examples = task.read(str(tmp_path / "q.json"))
    rows = task.encode(examples, tokenizer, config(), 16)
    assert len(rows) > 3
    assert all(len(row["input_ids"]) <= 16 for row in rows)
    spans = [
        tokenizer.decode(row["input_ids"][row["start"] : row["end"] + 1]) for row in rows if row["start"] > 0
    ]
    assert spans
    assert set(spans) == {"lives in paris"}
    covered = {
        offset for row in rows for offset, inside in zip(row["offsets"], row["inside"], strict=True) if inside
    }
    assert len(covered) == len(context.split())
    # The best span of any window, and never one from the question or the wrong way round.
    batch = task.collate(rows, 0, 0)
    shape = batch["input_ids"].shape
    last = next(at for at, row in enumerate(rows) if row["start"] > 0)
    starts, ends = torch.full(shape, -99.0), torch.zeros(shape)
    starts[:, 1] = ends[:, 1] = 50.0  # a token of the question
    starts[last, rows[last]["start"]] = ends[last, rows[last]["end"]] = 9.0
    ends[last, rows[last]["start"] - 1] = 20.0
    answers = task.answers(QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends), batch)
    assert task.score(examples, rows, answers) == {"f1": 1.0, "exact_match": 1.0}


def test_a_long_question_leaves_room_for_the_paragraph(
    tokenizer: SqueezeBertTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "q.json").write_text(json.dumps(squad([("anna lives in paris", "who " * 90, "anna", 0)])))
    rows = QuestionAnswering().encode(
        QuestionAnswering().read(str(tmp_path / "q.json")), tokenizer, config(), 16
    )
    assert all(len(row["input_ids"]) <= 16 for row in rows)
    assert sum(row["start"] > 0 for row in rows) >= 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "q.json is not valid JSON"),
        ("[]", "q.json: data is missing"),
        ('{"data": []}', "holds no questions"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "data[0].paragraphs[0]: context is missing"),
        (json.dumps(squad([("anna lives", "who", "anna", 3)])), "the answer 'anna' is not at character 3"),
        (json.dumps(squad([("anna", "who", "anna", 0)])).replace('"id": "0"', '"id": "7", "is_impossible": true'),
         "paragraphs[0].qas[0] (7) is_impossible, but has answers"),
        (json.dumps(squad([("anna", "who", "anna", 0)])).replace('"answers": [{', '"answers": [], "x": [{'),
         "has no answers"),
    ],
)  # fmt: skip
def test_what_is_not_squad_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(InputError) as caught:
        QuestionAnswering().read(str(tmp_path / "q.json"))
    assert said in str(caught.value)


@pytest.mark.skipif(not (DATA / "xquad_en").is_dir(), reason="../shared/data/xquad_en is not there")
def test_real_answers_come_back_from_their_tokens() -> None:
    task = QuestionAnswering(stride=64)
    examples = task.read(str(DATA / "xquad_en" / "xquad.en.json"))[:200]
    rows = task.encode(examples, SqueezeBertTokenizerFast(DATA / "vocab.txt"), SqueezeBertConfig(), 128)
    answers = [(float(row["start"] > 0), row["start"], row["end"], 0.0) for row in rows]
    measured = task.score(examples, rows, answers)
    assert len(rows) > len(examples)
    assert measured["exact_match"] > 0.98  # an answer may end within a token


# What all commands refuse


def test_a_model_of_no_task_cannot_be_evaluated(base: Path, tmp_path: Path) -> None:
    refuses("evaluate", tmp_path / "x.tsv", "-m", base, said="is a SqueezeBertModel, expected a model")
    tags = save_base(SqueezeBertForTokenClassification, tmp_path / "tags")
    refuses(
        "evaluate", tmp_path / "x", "-m", tags, "--column", "a", said="--column means nothing for token-class"
    )
    refuses("evaluate", tmp_path / "x", "-m", tags, "--precision", "int4", said="the precision is 'int4'")
    questions = save_base(SqueezeBertForQuestionAnswering, tmp_path / "qa")
    refuses("evaluate", tmp_path / "none.json", "-m", questions, said="none.json doesn't exist")
    refuses("evaluate", tmp_path / "x", "-m", tags, "--max-length", 99, said="x doesn't exist")
