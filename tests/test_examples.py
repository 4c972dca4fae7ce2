"""The examples run as they are, in a process of their own."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast
from squeezebert_fast.backends import cpu
from squeezebert_fast.training.tasks.sequences import SequenceClassification, TableColumns
from tests.loading_helpers import make

EXAMPLES = Path(__file__).parents[1] / "examples"
VOCAB = Path(__file__).parent / "data" / "vocab.txt"

needs_native = pytest.mark.skipif(
    cpu.native_module_missing() is not None, reason="the native module is not built"
)
WITHOUT_TRANSFORMERS = """
import runpy, sys
sys.modules["transformers"] = None
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run(*arguments: str) -> str:
    """What a successful process prints."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_native
def test_the_demo_needs_no_transformers_and_classifies_real_sentences(tmp_path: Path) -> None:
    demo = str(EXAMPLES / "demo.py")
    printed = run("-c", WITHOUT_TRANSFORMERS, demo, "--quick", "--out", str(tmp_path))
    for table in (r"60 sentences of sentiments\.tsv", r"200 sentences of heldout_sentiments\.tsv"):
        figures = re.search(rf"{table}[^0-9]*([01]\.\d+)[^0-9]*([01]\.\d+)[^0-9]*([01]\.\d+)", printed)
        assert figures is not None
        assert min(float(figure) for figure in figures.groups()) >= 0.8
    for line in ("sentences a second", "patched int8", "base SqueezeBERT", "query to output_norm"):
        assert line in printed
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_classify_names_a_label_for_each_text(tmp_path: Path) -> None:
    labels = {0: "bad", 1: "good"}
    make(SqueezeBertForSequenceClassification, vocab_size=30522, id2label=labels).save_pretrained(tmp_path)
    SqueezeBertTokenizerFast(VOCAB).save_pretrained(tmp_path)
    printed = run(str(EXAMPLES / "classify.py"), str(tmp_path), "A fine day.", "Rain")
    first, second = printed.splitlines()
    assert re.fullmatch(r"(bad|good)  \d+\.\d%  A fine day\.", first)
    assert re.fullmatch(r"(bad|good)  \d+\.\d%  Rain", second)


@pytest.mark.slow
def test_patching_transformers_prints_the_difference_and_both_times() -> None:
    pytest.importorskip("transformers")
    printed = run(str(EXAMPLES / "patch_transformers.py"), "--layers", "1")
    difference, times = printed.splitlines()
    assert float(difference.removeprefix("largest difference ")) < 1e-5
    assert re.fullmatch(r"[\d,.]+ ms unpatched, [\d,.]+ ms patched", times)


def test_clinc150_becomes_tables_that_training_reads_without_what_is_out_of_scope(tmp_path: Path) -> None:
    texts = {"train": 'say "hi"\tin french', "val": "où?", "test": "a\nb"}
    splits: dict[str, list[list[str]]] = {name: [[text, "translate"]] for name, text in texts.items()}
    splits |= {f"oos_{name}": [["why", "oos"]] for name in texts}
    (tmp_path / "data_full.json").write_text(json.dumps(splits))
    run(str(EXAMPLES / "clinc150.py"), str(tmp_path / "data_full.json"), str(tmp_path / "out"))
    for theirs, ours in (("train", "train"), ("val", "dev"), ("test", "test")):
        (example,) = SequenceClassification(TableColumns()).read(str(tmp_path / "out" / f"{ours}.jsonl"))
        assert (example.text, example.label) == (texts[theirs], "translate")


def test_the_sentiment_model_learns_from_nothing_that_it_is_tested_on(tmp_path: Path) -> None:
    """And learns from "n't" as people write it too, opinions many times, everyday sentences of known words."""
    with (EXAMPLES / "sentiments.tsv").open(encoding="utf-8", newline="") as stream:
        tested = next(csv.DictReader(stream, delimiter="\t"))["text"]
    sst2, masc = tmp_path / "sst2", tmp_path / "text_masc"
    sst2.mkdir()
    masc.mkdir()
    phrases = [
        'it is n\'t a bad "film" , \t1',
        f"{tested.lower()} \t1",
        "we all saw them say so\t0",
        "zanzibarian\t0",
    ]
    (sst2 / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(phrases) + "\n")
    (sst2 / "dev.tsv").write_text("sentence\tlabel\ngood fun\t1\n")
    everyday = [
        "We all saw them say so .",
        "We did n't see them say so .",
        tested,
        "We all saw Zanzibar say so .",
    ]
    (masc / "corpus.txt").write_text("\n".join(everyday) + "\n")
    printed = run(str(EXAMPLES / "sentiment_data.py"), str(tmp_path), str(tmp_path / "out"))
    assert "SST-2: 1 of 4 share 5 words" in printed
    assert "opinions: 0 of " in printed
    out = tmp_path / "out"
    read = {
        path: SequenceClassification(TableColumns()).read(str(out / path))
        for path in (
            "teacher/sst2.csv",
            "student/sst2.csv",
            "teacher/opinions.csv",
            "dev/sst2.csv",
            "dev/opinions.csv",
        )
    }
    assert [(one.text, one.label) for one in read["teacher/sst2.csv"]] == [
        ('it is n\'t a bad "film" , ', "positive"),
        ("we all saw them say so", "negative"),
        ("zanzibarian", "negative"),
        ('it isn\'t a bad "film" , ', "positive"),
    ]
    rare = {one.text for one in read["teacher/sst2.csv"]} - {one.text for one in read["student/sst2.csv"]}
    assert rare == {"zanzibarian"}
    assert [(one.text, one.label) for one in read["dev/sst2.csv"]] == [("good fun", "positive")]
    learnt, held_out = ([one.text for one in read[f"{part}/opinions.csv"]] for part in ("teacher", "dev"))
    assert len(learnt) > 5 * len(set(learnt))
    assert set(learnt).isdisjoint(held_out)
    assert 0.15 < len(held_out) / len({*learnt, *held_out}) < 0.25
    assert (out / "everyday.txt").read_text() == "We all saw them say so .\nWe didn't see them say so .\n"


@pytest.mark.slow
@needs_native
def test_a_customers_table_goes_from_training_to_int8_answers_beside_their_ids(tmp_path: Path) -> None:
    """On the rows that ship with the example, whatever else is on the machine."""
    program = """
import runpy, sys
from pathlib import Path
example = runpy.run_path(sys.argv[1])
example["main"].__globals__["BANKING77"] = Path("nowhere")
example["main"](Path(sys.argv[2]))
"""
    printed = run("-c", program, str(EXAMPLES / "customer_table.py"), str(tmp_path))
    with (tmp_path / "intents.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["Ticket No."] for row in rows] == [f"{4001 + at:06}" for at in range(25)]
    assert rows[-1] == {"Ticket No.": "004025", "label": "", "score": ""}  # the empty text
    assert all(0 < float(row["score"]) <= 1 for row in rows[:-1])
    assert re.search(r"25 tickets, \d+ of 24 intents right", printed)
    assert re.search(r'(?m)^I lost my card,0,1,00\d{4},"?', printed)


@pytest.mark.parametrize("name", ["classify.py", "clinc150.py", "patch_transformers.py"])
def test_a_short_example_has_less_than_40_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 40
