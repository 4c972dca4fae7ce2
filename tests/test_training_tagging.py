"""Every tagging scheme scores as seqeval scores it, and what was detected is said."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from seqeval import scheme as theirs
from seqeval.metrics import f1_score, precision_score, recall_score

from squeezebert_fast import SqueezeBertModel
from squeezebert_fast.training import metrics
from squeezebert_fast.training.tagging import scheme_of
from tests.cli_helpers import run, succeeds
from tests.training_helpers import FILLERS, PEOPLE, save_base, summary_of, trains

TYPES = ("PER", "LOC", "B-2")  # a type may hold what looks like a tag
LETTERS = {"IOB": "BI", "IOE": "IE", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}
WRITTEN = {
    "IOB1": "IOB", "IOB2": "IOB", "IOE1": "IOE", "IOE2": "IOE",
    "IOBES": "IOBES", "BILOU": "BILOU", "BMES": "BMES", "BMEWO": "BMEWO",
}  # fmt: skip
STRICT = {"IOBES": theirs.IOBES, "BILOU": theirs.BILOU}
QUICK = ["--batch-size", 8, "--learning-rate", 1e-3, "--threads", 1, "--task", "token-classification"]


def labels_of(letters: str, types: Sequence[str] = TYPES) -> list[str]:
    return ["O", *(f"{letter}-{kind}" for letter in letters for kind in types)]


def written(spans: Sequence[tuple[int, str]], scheme: str) -> list[str]:
    """Spans (words, type; "" for outside) in a scheme, written out as its definition says."""
    tags: list[str] = []
    for at, (words, kind) in enumerate(spans):
        before = spans[at - 1][1] if at else ""
        after = spans[at + 1][1] if at + 1 < len(spans) else ""
        inner = {
            "IOB1": "I" * words if before != kind else "B" + "I" * (words - 1),
            "IOB2": "B" + "I" * (words - 1),
            "IOE1": "I" * words if after != kind else "I" * (words - 1) + "E",
            "IOE2": "I" * (words - 1) + "E",
            "IOBES": "S" if words == 1 else "B" + "I" * (words - 2) + "E",
            "BILOU": "U" if words == 1 else "B" + "I" * (words - 2) + "L",
            "BMES": "S" if words == 1 else "B" + "M" * (words - 2) + "E",
            "BMEWO": "W" if words == 1 else "B" + "M" * (words - 2) + "E",
        }[scheme]
        tags += [f"{letter}-{kind}" if kind else "O" for letter in inner]
    return tags


def random_spans(chance: random.Random) -> list[tuple[int, str]]:
    return [(chance.randrange(1, 4), chance.choice(["", *TYPES])) for _ in range(chance.randrange(1, 7))]


@pytest.mark.parametrize("scheme", WRITTEN)
def test_the_entities_of_every_scheme_are_those_that_were_written(scheme: str) -> None:
    chance = random.Random(scheme)
    read = scheme_of(labels_of(LETTERS[WRITTEN[scheme]]))
    for _ in range(500):
        spans, expected, at = random_spans(chance), set(), 0
        for words, kind in spans:
            if kind:
                expected.add((at, at + words, kind))
            at += words
        tags = written(spans, scheme)
        assert read.entities(tags) == expected
        assert read.stray_words(tags) == 0
        perfect = metrics.tagging([tags], [tags], read)
        assert perfect["f1"] == perfect["precision"] == perfect["recall"] == float(bool(expected))


@pytest.mark.parametrize("scheme", LETTERS)
def test_scores_are_seqevals_on_whatever_tags_a_model_gives(scheme: str) -> None:
    """By its default mode for IOB and IOE, by its strict mode for IOBES, BILOU, and what is IOBES in other letters."""
    chance = random.Random(scheme)
    labels = labels_of(LETTERS[scheme])
    letters = str.maketrans("MW", "IS") if scheme.startswith("BM") else {}

    def in_their_letters(sentences: list[list[str]]) -> list[list[str]]:
        return [[tag[0].translate(letters) + tag[1:] for tag in sentence] for sentence in sentences]

    strict = {"mode": "strict", "scheme": STRICT.get(scheme, theirs.IOBES)}
    how = {} if scheme in ("IOB", "IOE") else strict
    for _ in range(60):
        lengths = [chance.randrange(1, 12) for _ in range(5)]
        actual, other = ([chance.choices(labels, k=length) for length in lengths] for _ in "ab")
        predicted = [
            [a if chance.random() < 0.8 else b for a, b in zip(*pair, strict=True)]
            for pair in zip(actual, other, strict=True)
        ]
        ours = metrics.tagging(predicted, actual, scheme_of(labels))
        pair = in_their_letters(actual), in_their_letters(predicted)
        assert ours["f1"] == pytest.approx(f1_score(*pair, zero_division=0, **how))
        assert ours["precision"] == pytest.approx(precision_score(*pair, zero_division=0, **how))
        assert ours["recall"] == pytest.approx(recall_score(*pair, zero_division=0, **how))


def test_an_entity_that_lacks_its_end_is_not_the_one_that_has_it() -> None:
    read = scheme_of(["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"])
    assert metrics.tagging([["B-LOC", "O"]], [["B-LOC", "E-LOC"]], read)["f1"] == 0.0
    assert read.stray_words(["B-LOC", "O", "S-LOC", "I-LOC", "E-LOC"]) == 3


def test_plain_tags_have_an_accuracy_alone() -> None:
    read = scheme_of(["DT", "NN", "VB", "O"])
    assert metrics.tagging([["DT", "NN", "NN"]], [["DT", "NN", "VB"]], read) == {"accuracy": 2 / 3}


@pytest.mark.parametrize(
    ("labels", "name", "others"),
    [
        (["O", "B-X", "I-X"], "IOB", ()),
        (["B-X", "I-X"], "IOB", ()),
        (["O", "I-X"], "IOB", ()),
        (["O", "E-X"], "IOE", ()),
        (["O", "S-X"], "IOBES", ()),
        (["O", "B-X", "E-X"], "IOBES", ()),
        (["O", "B-X", "L-X", "U-X"], "BILOU", ()),
        (["O", "B-X", "M-X", "E-X"], "BMES", ()),
        (["O", "W-X"], "BMEWO", ()),
        (["B", "M", "E", "S"], "BMES", ()),
        (["B", "I", "O"], "IOB", ()),
        (["O", "B-X", "I-X", "L-X", "E-X"], "mixed", ()),
        (["O", "B-X", "I-X", "X", "[PAD]"], "IOB", ("X", "[PAD]")),
        (["O", "B-X", "S", "V"], "IOB", ("S", "V")),
        (["DT", "NN", "VB"], "plain", ()),
        (["S", "V", "O"], "plain", ()),  # subject, verb, object
        (["S-MAJ", "NN", "VB"], "plain", ()),
        (["NOUN", "O", "E", "S", "B"], "plain", ()),  # letters of a part of speech tag set
        (["O", "PER", "person-actor"], "plain", ()),
        (["O"], "plain", ()),
        (["LABEL_0", "LABEL_1"], "plain", ()),
    ],
)
def test_a_set_of_labels_says_its_scheme(labels: list[str], name: str, others: tuple[str, ...]) -> None:
    found = scheme_of(labels)
    assert (found.name, found.others) == (name, others)


def test_a_mixture_of_schemes_is_read_as_it_can_be() -> None:
    read = scheme_of(["O", "B-X", "I-X", "L-X", "E-X", "U-X"])
    assert read.entities(["B-X", "L-X", "U-X", "B-X", "I-X", "E-X", "I-X"]) == {
        (0, 2, "X"), (2, 3, "X"), (3, 6, "X"), (6, 7, "X"),
    }  # fmt: skip


def write_conll(path: Path, scheme: str) -> Path:
    """A person of one or two words in each sentence."""
    lines = []
    for at in range(24):
        words = [PEOPLE[at % 3]] + ["lives"] * (at % 2)
        tags = written([(len(words), "PER"), (1, "")], scheme) if scheme != "plain" else ["NN", "VB", "RB"]
        words = [*words, FILLERS[at % 10]] if scheme != "plain" else ["anna", "lives", "in"]
        lines += [*(f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)), ""]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("scheme", "metric", "said"),
    [
        ("IOBES", "f1", "tags are read as IOBES\n"),
        ("BILOU", "f1", "tags are read as BILOU\n"),
        ("plain", "accuracy", "tags are read as plain: accuracy\n"),
    ],
)
def test_a_run_learns_in_its_scheme_and_says_it(scheme: str, metric: str, said: str, tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    train, out = write_conll(tmp_path / "train.conll", scheme), tmp_path / "out"
    how = ["-m", base, "-o", out, *QUICK, "--learning-rate", 2e-2, "--epochs", 10]
    output = trains("finetune", train, "--dev", train, *how)
    assert said in output
    assert f"best dev {metric} " in output
    summary = summary_of(out)
    assert (summary["metric"], summary["reading"]) == (metric, said.strip())
    assert summary["best"]["dev"][metric] > 0.95
    assert summary["best"]["step"] > 3  # not the first epoch's
    assert said in succeeds("evaluate", train, "-m", out)
    measured = json.loads(succeeds("evaluate", train, "-m", out, "--json"))["float32"]
    dev = summary["best"]["dev"]
    assert {name: measured[name] for name in dev} == pytest.approx(dev)


def test_a_metric_that_stands_still_says_so_and_leaves_the_choice_to_the_loss(tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    train, dev = write_conll(tmp_path / "train.conll", "IOB2"), tmp_path / "dev.conll"
    dev.write_text("it\tO\nwas\tO\n\nfilm\tO\n")
    result = run("finetune", train, "--dev", dev, "-m", base, "-o", tmp_path / "out", *QUICK, "--epochs", 4)
    assert result.exit_code == 0, result.stderr
    assert "the dev data can't tell models apart by f1, which is 0 for right answers too" in result.stderr
    assert "dev f1 was 0.0000 in all 5 evaluations, so the lowest loss chose the model" in result.stdout
    losses = [float(loss) for loss in re.findall(r"dev loss (\d\.\d+)", result.stdout)]
    best = summary_of(tmp_path / "out")["best"]
    assert losses.index(min(losses)) == best["epoch"]
    assert best["epoch"] > 1


def test_what_a_scheme_leaves_uncounted_is_said(tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    (tmp_path / "t.conll").write_text("anna\tB-PER\nlives\tI-PER\nin\tO\nparis\tS-LOC\nso\tX\n")
    result = run(
        "finetune", tmp_path / "t.conll", "-m", base, "-o", tmp_path / "out", *QUICK, "--max-steps", 1
    )
    assert result.exit_code == 0, result.stderr
    assert "the labels 'X' have no scheme's form and count as outside of every entity" in result.stderr
    assert "2 words of the data with a tag that makes no whole entity in IOBES" in result.stderr
