"""What all tables share: reading results, rows as Markdown, and the line that says where figures come from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"

Results = dict[str, Any]


@cache
def results(name: str) -> Results:
    """A file of results, by its name without suffix."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table; `texts`: how many of the first columns are text, the others being figures."""
    sides = [*["---"] * texts, *["---:"] * (len(head) - texts)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, sides, *rows))


def source(*measured: Results) -> str:
    """Which CPU, by which kernels, how many threads, when and by which command: the line below a table."""
    return "\n".join(f"\n*{where(each)}: `{command(each)}`*" for each in measured)


def where(measured: Results) -> str:
    """The machine and the day of results."""
    cpu = measured["machine"]["CPU"]
    threads = measured["threads"]
    return (
        f"{measured['cpu']} (kernel build {cpu['kernel build in use']}), {threads} "
        f"thread{'s' if threads > 1 else ''}, {measured['date'][:10]}"
    )


def command(measured: Results) -> str:
    """The command of results, without where it was to write them."""
    return re.sub(r" --(?:out|resume)\b(?: [^-\s]\S*)?", "", measured["command"])


def best(values: Iterable[float], text: str, value: float) -> str:
    """`text`, in bold if `value` is the largest of `values`."""
    return f"**{text}**" if value == max(values) else text


def short(milliseconds: float) -> str:
    """A time with three digits."""
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2}f}"


def megabytes(size: float) -> str:
    """Bytes as megabytes of a million, as the results' own tables have them."""
    return f"{size / 1e6:.0f}"


def by(rows: Iterable[Results], *keys: str) -> dict[Any, Results]:
    """Rows by one or several of their values."""
    return {row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys): row for row in rows}
