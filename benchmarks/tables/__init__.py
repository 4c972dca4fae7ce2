"""The tables of README and docs/, made of what benchmarks/results/ holds: no figure there is typed by hand.

    python -m benchmarks.tables            # writes them into the pages
    python -m benchmarks.tables --check    # exits with 1 where a page has something else

A page says where a table stands, and between which lines it is written:

    <!-- table: embedding -->
    <!-- end -->

`TABLES` has them by name. Each says in its last line which CPU, how many threads, when and by which command.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import arm, costs, engines, passes, scale, trained

ROOT = Path(__file__).resolve().parents[2]

TABLES: dict[str, Callable[[], str]] = {
    **engines.TABLES,
    **costs.TABLES,
    **passes.TABLES,
    **trained.TABLES,
    **scale.TABLES,
    **arm.TABLES,
}

PLACE = re.compile(r"(?P<first><!-- table: (?P<name>[\w-]+) -->\n).*?(?P<last><!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(page: str) -> str:
    """The page's text with its tables as the results have them. Raises KeyError for a name that no table has."""
    return PLACE.sub(lambda place: f"{place['first']}{TABLES[place['name']]()}\n{place['last']}", page)
