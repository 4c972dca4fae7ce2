"""What the sentiment model learns from and is chosen by: film reviews, opinions of all kinds, everyday sentences.

    python examples/sentiment_data.py DATA OUT

DATA: a folder with sst2/train.tsv, sst2/dev.tsv and text_masc/corpus.txt. Writes to OUT
    teacher/sst2.csv       SST-2's phrases, those with a split "n't" also as people write them
    teacher/opinions.csv   opinions.tsv without its dev part, REPEATED times, since it is small
    student/               the same, without phrases of SST-2 that have a rare word
    dev/sst2.csv, dev/opinions.csv
    everyday.txt           sentences of MASC, which have no labels
The student's vocabulary must hold every word that it learns from, and should be small: so no rare words of reviews,
and of MASC only sentences of words that the others have. What has RUN words in a row of a sentence that the model is
tested on is left out.
"""

from __future__ import annotations

import csv
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
TESTS = (HERE / "sentiments.tsv", HERE / "heldout_sentiments.tsv")
OPINIONS = HERE / "opinions.tsv"
LABELS = {"0": "negative", "1": "positive"}
REPEATED = 6
RARE = 2  # times in SST-2
DEV_PART = 5  # one in five opinions, by a checksum of its text
RUN = 5  # words in a row that a test sentence and a training sentence must not share
WORDS_OF_A_SENTENCE = range(6, 31)

Row = tuple[str, str]  # a text, its label


def words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", as_written(text).lower().replace("’", "'"))


def as_written(text: str) -> str:
    """Without the spaces that SST-2 and MASC have before n't: "is n't" is other tokens than "isn't"."""
    return re.sub(r" n(['’])t\b", r"n\1t", text)


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of RUN words, or all the words of a shorter text."""
    found = words(text)
    return {tuple(found[at : at + RUN]) for at in range(max(1, len(found) - RUN + 1))}


def read_table(path: Path, text: str) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row[text], LABELS.get(row["label"], row["label"])) for row in rows]


def is_dev(text: str) -> bool:
    return zlib.crc32(text.encode()) % DEV_PART == 0


def everyday(corpus: Path, known: set[str]) -> list[str]:
    """Whole sentences of MASC, without quotes and words that aren't known."""
    lines = dict.fromkeys(
        as_written(line.strip()) for line in corpus.read_text(encoding="utf-8").splitlines()
    )
    return [
        line
        for line in lines
        if re.fullmatch(r"[A-Z][^\"“”]*[.!]", line)
        and len(line.split()) in WORDS_OF_A_SENTENCE
        and known.issuperset(words(line))
    ]


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])


def main(data: Path, out: Path) -> None:
    tested = {run for path in TESTS for text, _ in read_table(path, "text") for run in runs(text)}

    def apart(rows: list[Row]) -> list[Row]:
        return [row for row in rows if tested.isdisjoint(runs(row[0]))]

    sst2, opinions = read_table(data / "sst2" / "train.tsv", "sentence"), read_table(OPINIONS, "text")
    counts = Counter(word for text, _ in sst2 for word in words(text))
    ours = {word for text, _ in opinions for word in words(text)}
    known = ours | {word for word, times in counts.items() if times > RARE}
    sentences = [(text, "") for text in everyday(data / "text_masc" / "corpus.txt", known)]
    read = {"SST-2": sst2, "opinions": opinions, "MASC": sentences}
    kept = {name: apart(rows) for name, rows in read.items()}
    for name, rows in read.items():
        print(f"{name}: {len(rows) - len(kept[name])} of {len(rows)} share {RUN} words with a test sentence")
    phrases = kept["SST-2"]
    phrases += [(as_written(text), label) for text, label in phrases if as_written(text) != text]
    frequent = [row for row in phrases if known.issuperset(words(row[0]))]
    for folder, some in (("teacher", phrases), ("student", frequent)):
        write(out / folder / "sst2.csv", some)
        write(
            out / folder / "opinions.csv", [row for row in kept["opinions"] if not is_dev(row[0])] * REPEATED
        )
    write(out / "dev" / "sst2.csv", read_table(data / "sst2" / "dev.tsv", "sentence"))
    write(out / "dev" / "opinions.csv", [row for row in kept["opinions"] if is_dev(row[0])])
    (out / "everyday.txt").write_text("".join(f"{text}\n" for text, _ in kept["MASC"]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
