"""The public data sets as the commands of `benchmarks.defaults` read them: the parts held out, by rules.

CLINC150   its own splits, without what is out of scope (examples/clinc150.py)
SNLI dev   the last 1,000 pairs are the test set, and their premises aren't in the training set
XQuAD      every fifth article is the test set
CODAH      a header for fold 0
MASC       every twentieth line is the dev set
BANKING77  besides all of it, the first 5, 10, 25 and 50 texts of each intent
SST-2      besides all of it, the first 10,000 phrases
"""

from __future__ import annotations

import collections
import csv
import json
import runpy
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.command import DataMissing

EXAMPLES = Path(__file__).parents[1] / "examples"
PER_CLASS = (5, 10, 25, 50)
SST2_ROWS = 10_000
SNLI_TEST = 1_000
CODAH_COLUMNS = ("category", "prompt", "a", "b", "c", "d", "label")


def prepare_data(source: Path, out: Path) -> None:
    """Write everything to `out`, from the folder of data sets `source`. Raises DataMissing."""
    for name in (
        "banking77",
        "clinc150",
        "sst2",
        "snli_dev",
        "wnut17",
        "xquad_en",
        "copa",
        "codah",
        "text_masc",
    ):
        if not (source / name).is_dir():
            raise DataMissing(f"there is no {name} in {source}")
        (out / name).mkdir(parents=True, exist_ok=True)
    for name in (
        "banking77/train.csv",
        "banking77/test.csv",
        "sst2/dev.tsv",
        "copa/train.jsonl",
        "copa/val.jsonl",
    ):
        shutil.copyfile(source / name, out / name)
    for split in ("train", "dev", "test"):
        shutil.copyfile(source / "wnut17" / f"{split}.conll", out / "wnut17" / f"{split}.conll")
    clinc150 = runpy.run_path(str(EXAMPLES / "clinc150.py"))
    clinc150["main"](source / "clinc150" / "data_full.json", out / "clinc150")
    shutil.copyfile(source / "vocab.txt", out / "vocab.txt")
    _first_of_each_intent(source / "banking77" / "train.csv", out / "banking77")
    lines = _lines(source / "sst2" / "train.tsv")
    _write(out / "sst2" / f"train-{SST2_ROWS}.tsv", lines[: 1 + SST2_ROWS])
    _split_snli(source / "snli_dev" / "dev.csv", out / "snli_dev")
    _split_xquad(source / "xquad_en" / "xquad.en.json", out / "xquad_en")
    for split in ("train", "dev", "test"):
        rows = _lines(source / "codah" / f"fold0_{split}.tsv")
        _write(out / "codah" / f"{split}.tsv", ["\t".join(CODAH_COLUMNS), *rows])
    lines = _lines(source / "text_masc" / "corpus.txt")
    _write(out / "text_masc" / "train.txt", [line for at, line in enumerate(lines) if at % 20])
    _write(out / "text_masc" / "dev.txt", lines[::20])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def _first_of_each_intent(source: Path, out: Path) -> None:
    header, rows = _rows(source)
    for most in PER_CLASS:
        seen: collections.Counter[str] = collections.Counter()
        chosen = []
        for text, intent in rows:
            if seen[intent] < most:
                chosen.append((text, intent))
            seen[intent] += 1
        _write_rows(out / f"train-{most}.csv", header, chosen)


def _split_snli(source: Path, out: Path) -> None:
    header, rows = _rows(source)
    test = rows[-SNLI_TEST:]
    premises = {row[0] for row in test}
    _write_rows(out / "train.csv", header, [row for row in rows[:-SNLI_TEST] if row[0] not in premises])
    _write_rows(out / "test.csv", header, test)


def _split_xquad(source: Path, out: Path) -> None:
    articles = json.loads(source.read_text(encoding="utf-8"))["data"]
    parts = {"test": articles[::5], "train": [each for at, each in enumerate(articles) if at % 5]}
    for split, chosen in parts.items():
        text = json.dumps({"version": "1.1", "data": chosen}, ensure_ascii=False)
        (out / f"{split}.json").write_text(text, encoding="utf-8")
