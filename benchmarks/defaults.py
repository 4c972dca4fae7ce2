"""What each task reaches with defaults alone: docs/which_data.md's commands and tables.

    python -m benchmarks.defaults --base all-MiniLM-L6-v2 --runs OUT --out benchmarks/results \\
        [--page docs/which_data.md] [--only NAME ...]

Writes the data sets to OUT/data, runs every command of RUNS there as it stands, evaluates its model on the part held
out, prints Markdown tables and writes defaults.json, and with --page the tables into the page. A run that is done is
not done again, so that --only and an interrupted command go on. Times are CPU time of all threads, which neighbours
change less than the time on the clock.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import about, console, exit_with, parser_for, prepare
from benchmarks.default_data import SST2_ROWS, prepare_data
from benchmarks.report import write_json

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
BASE = "all-MiniLM-L6-v2"
NEW = "--layers 2 --hidden-size 128 --groups 4 --vocab vocab.txt"


@dataclass(frozen=True)
class Run:
    """A command, from the folder of the data sets, and what its model is evaluated on.

    data: what a reader is told of it. test: the part held out; "" where the run's own dev metric is the figure.
    """

    name: str
    data: str
    train: str
    test: str

    @property
    def command(self) -> str:
        """As a user types it."""
        return f"squeezebert-fast {self.train} -o ../runs/{self.name}"


TASKS = (
    Run(
        "banking77",
        "BANKING77, 77 intents",
        f"finetune banking77/train.csv --label-column category -m {BASE}",
        "banking77/test.csv",
    ),
    Run(
        "clinc150",
        "CLINC150, 150 intents",
        f"finetune clinc150/train.jsonl --dev clinc150/dev.jsonl -m {BASE}",
        "clinc150/test.jsonl",
    ),
    Run(
        "sst2",
        f"SST-2, sentiment, the first {SST2_ROWS:,} of 67,349 phrases",
        f"finetune sst2/train-{SST2_ROWS}.tsv --column sentence -m {BASE}",
        "sst2/dev.tsv",
    ),
    Run(
        "snli",
        "SNLI's dev set, pairs: does one follow from the other?",
        f"finetune snli_dev/train.csv --column premise --pair-column hypothesis -m {BASE}",
        "snli_dev/test.csv",
    ),
    Run(
        "wnut17",
        "WNUT-17, new entities in tweets",
        f"finetune wnut17/train.conll --dev wnut17/dev.conll --task token-classification -m {BASE}",
        "wnut17/test.conll",
    ),
    Run(
        "xquad",
        "XQuAD, answers in paragraphs",
        f"finetune xquad_en/train.json --task question-answering -m {BASE}",
        "xquad_en/test.json",
    ),
    Run(
        "copa",
        "COPA, the cause or effect, of two",
        "finetune copa/train.jsonl --task multiple-choice --column premise --choice-columns choice1,choice2 "
        f"-m {BASE}",
        "copa/val.jsonl",
    ),
    Run(
        "codah",
        "CODAH, how a sentence goes on, of four",
        "finetune codah/train.tsv --dev codah/dev.tsv --task multiple-choice --column prompt "
        f"--choice-columns a,b,c,d -m {BASE}",
        "codah/test.tsv",
    ),
    Run(
        "banking77-from-nothing",
        "BANKING77, no base",
        f"finetune banking77/train.csv --label-column category {NEW}",
        "banking77/test.csv",
    ),
    Run(
        "masc",
        "MASC, plain text, no base",
        f"pretrain text_masc/train.txt --dev text_masc/dev.txt {NEW}",
        "",
    ),
)
CURVE = tuple(
    Run(
        f"banking77-{most}",
        f"{most}",
        f"finetune banking77/train-{most}.csv --label-column category -m {BASE}",
        "banking77/test.csv",
    )
    for most in (5, 10, 25, 50)
)
"""BANKING77 with fewer texts of each intent."""

RUNS = {run.name: run for run in (*TASKS, *CURVE)}


def measured(run: Run, folder: Path, threads: int) -> dict[str, Any]:
    """A run's scores on the test set, its length and its CPU time. folder: has data/ and runs/."""
    kept = folder / "runs" / f"{run.name}.json"
    if not kept.exists():
        before = _cpu_seconds()
        _say(folder, *shlex.split(run.command)[1:], "--overwrite", "--threads", str(threads))
        seconds = _cpu_seconds() - before
        summary = json.loads((kept.with_suffix("") / "metrics.json").read_text(encoding="utf-8"))
        scores = summary["best"]["dev"] if summary["best"] else None
        if run.test:
            model = f"../runs/{run.name}"
            said = _say(folder, "evaluate", run.test, "-m", model, "--json", "--threads", str(threads))
            (scores,) = json.loads(said).values()
        row = {
            "command": run.command,
            "metric": summary["metric"],
            "scores": {name: value for name, value in scores.items() if isinstance(value, float)},
            "cpu_seconds": seconds,
            **{name: summary[name] for name in ("task", "training_examples", "epochs", "steps", "threads")},
        }
        write_json(kept, row)
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def _say(folder: Path, *arguments: str) -> str:
    """What the command prints, run among the data sets."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "squeezebert_fast", *arguments]
    done = subprocess.run(
        command, cwd=folder / "data", env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tasks_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of TASKS as a Markdown table."""
    lines = [["data", "`--task`", "examples", "epochs", "held out", "CPU minutes"]]
    for run in TASKS:
        if (row := rows.get(run.name)) is not None:
            lines.append([run.data, row["task"], f"{row['training_examples']:,}", *_figures(row)])
    return _markdown(lines)


def curve_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of CURVE, and of all of BANKING77, as a Markdown table."""
    lines = [["texts of each intent", "texts", "epochs", "held out", "CPU minutes"]]
    for run in (*CURVE, RUNS["banking77"]):
        if (row := rows.get(run.name)) is not None:
            name = "all, 35 to 187" if run.name == "banking77" else run.data
            lines.append([name, f"{row['training_examples']:,}", *_figures(row)])
    return _markdown(lines)


def with_tables(page: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the tables between its comments that name them."""
    for name, table in (("tasks", tasks_table(rows)), ("curve", curve_table(rows))):
        page = re.sub(
            rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", rf"\g<1>{table}\n\g<2>", page, flags=re.S
        )
    return page


def _figures(row: Mapping[str, Any]) -> list[str]:
    shown = {"f1": "F1"}.get(row["metric"], row["metric"])
    score = row["scores"][row["metric"]]
    figure = f"{score:.1f}" if row["metric"] == "perplexity" else f"{score:.4f}"
    return [f"{row['epochs']:.0f}", f"{shown} {figure}", f"{row['cpu_seconds'] / 60:.1f}"]


def _markdown(lines: list[list[str]]) -> str:
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def link_base(base: Path, data: Path) -> None:
    """Let the commands find the base by its name."""
    link = data / BASE
    if not link.is_symlink():
        link.symlink_to(base.resolve(), target_is_directory=True)


def main() -> None:
    parser = parser_for("defaults", __doc__, repeats=None)
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="all-MiniLM-L6-v2")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="gets data/ and runs/")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="the public data sets")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page to put the tables into")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    chosen = parser.parse_args()
    prepare(chosen)
    (chosen.runs / "runs").mkdir(parents=True, exist_ok=True)
    if not (chosen.runs / "data").is_dir():
        part = chosen.runs / "data.part"
        prepare_data(chosen.data, part)
        link_base(chosen.base, part)
        part.rename(chosen.runs / "data")
    for name in chosen.only:
        measured(RUNS[name], chosen.runs, chosen.threads)
    report(chosen.runs, chosen.out, chosen.page)


def report(folder: Path, out: Path, page: Path | None) -> None:
    """Write and print what is done."""
    done: Sequence[str] = [name for name in RUNS if (folder / "runs" / f"{name}.json").exists()]
    rows = {name: json.loads((folder / "runs" / f"{name}.json").read_text(encoding="utf-8")) for name in done}
    print(tasks_table(rows), curve_table(rows), sep="\n\n")
    if page is not None:
        page.write_text(with_tables(page.read_text(encoding="utf-8"), rows), encoding="utf-8")
    where = about("defaults", None) | {"command": "python -m benchmarks.defaults"}
    write_json(out / "defaults.json", {**where, "runs": rows})
    console().print(f"wrote {out / 'defaults.json'}")


if __name__ == "__main__":
    exit_with(main)
