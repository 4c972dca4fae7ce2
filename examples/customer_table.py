"""A customer's table, from training to int8 predictions beside their ids.

    python examples/customer_table.py [OUT]

The table is as such tables are: semicolons, an id, odd names of columns, fields with line ends, an empty text, and the
new messages compressed and in two files. Its rows are eight intents of BANKING77 where ../shared/data/banking77 is,
else the few in messages.csv beside this file. Each step is a command, which is printed as one would type it:

    finetune   a new model of 2 layers and 128 channels, in less than a minute
    evaluate   its accuracy, in float32 and in int8
    predict    the intent of each new message, in int8, with the ticket's number, as a CSV
    similar    the tickets most like a question
"""

from __future__ import annotations

import csv
import gzip
import shlex
import subprocess
import sys
from pathlib import Path

from squeezebert_fast import SENTIMENT_MODEL

HERE = Path(__file__).parent
BANKING77 = HERE.parents[1] / "shared" / "data" / "banking77"
INTENTS = (
    "card_arrival",
    "card_payment_fee_charged",
    "declined_cash_withdrawal",
    "exchange_rate",
    "lost_or_stolen_card",
    "passcode_forgotten",
    "request_refund",
    "top_up_failed",
)
TICKET, MESSAGE, INTENT = "Ticket No.", "Customer message (en)", "Intent?"


def read(path: Path) -> list[tuple[str, str]]:
    """Texts with their intents."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            (row["text"], row["category"]) for row in csv.DictReader(stream) if row["category"] in INTENTS
        ]


def write(path: Path, rows: list[tuple[str, str]], first_ticket: int, *, labelled: bool) -> None:
    """Rows as a spreadsheet writes them that is set to a language with decimal commas."""
    with gzip.open(path, "wt", encoding="utf-8-sig", newline="") as stream:
        table = csv.writer(stream, delimiter=";", quoting=csv.QUOTE_ALL)
        table.writerow([TICKET, "Channel", MESSAGE, *([INTENT] if labelled else [])])
        for at, (text, intent) in enumerate(rows):
            body = f"Hello,\n{text}" if text and at % 10 == 0 else text
            table.writerow([f"{first_ticket + at:06}", "mail; web", body, *([intent] if labelled else [])])


def squeezebert_fast(*arguments: object) -> None:
    """Print a command and run it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ squeezebert-fast {shlex.join(words)}", flush=True)
    program = "from squeezebert_fast.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *words], check=True)


def main(out: Path) -> None:
    whole = BANKING77.is_dir()
    known = read(BANKING77 / "train.csv" if whole else HERE / "messages.csv")
    asked = read(BANKING77 / "test.csv") if whole else known[1::4]
    half = len(asked) // 2
    new = out / "new messages"
    new.mkdir(parents=True, exist_ok=True)
    write(out / "tickets.csv.gz", [row for at, row in enumerate(known) if at % 8], 1, labelled=True)
    write(out / "checked.csv.gz", known[::8], 2001, labelled=True)
    write(new / "monday.csv.gz", asked[:half], 4001, labelled=False)
    write(new / "tuesday.csv.gz", [*asked[half:], ("", "")], 4001 + half, labelled=False)

    model, columns = out / "model", ("--column", MESSAGE, "--label-column", INTENT)
    sizes = ("--layers", 2, "--hidden-size", 128, "--groups", 2, "--vocab", SENTIMENT_MODEL)
    learning = ("--learning-rate", 2e-3, "--epochs", 7 if whole else 10, "--max-length", 48)
    data = (out / "tickets.csv.gz", "--dev", out / "checked.csv.gz", *columns)
    squeezebert_fast("finetune", *data, *sizes, *learning, "-o", model, "--overwrite")
    # From here on the model says which column it reads.
    squeezebert_fast("evaluate", out / "checked.csv.gz", "-m", model, "--precision", "float32,int8")
    answers = out / "intents.csv"
    squeezebert_fast("predict", new, "-m", model, "--precision", "int8", "--id", TICKET, "-o", answers)
    question = ("--query", "I lost my card", "--top-k", 3, "--id", TICKET, "--keep", MESSAGE)
    squeezebert_fast("similar", new, "-m", model, *question, "--format", "csv")

    with answers.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    right = sum(row["label"] == intent for row, (_, intent) in zip(rows, asked, strict=False))
    print(f"\n{answers}: {len(rows)} tickets, {right} of {len(asked)} intents right. The first and the last:")
    print("".join(answers.read_text(encoding="utf-8").splitlines(keepends=True)[:3]) + str(rows[-1]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/customer"))
