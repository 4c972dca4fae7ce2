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
    figures = re.search(r"60 sentences of[^0-9]*([01]\.\d+)[^0-9]*([01]\.\d+)[^0-9]*([01]\.\d+)", printed)
    assert figures is not None
    assert min(float(figure) for figure in figures.groups()) >= 0.75
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
