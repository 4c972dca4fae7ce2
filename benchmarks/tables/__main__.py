"""Writes the tables into the pages, or says which pages differ (see `benchmarks.tables`)."""

from __future__ import annotations

import argparse
import sys

from benchmarks.tables import ROOT, filled, pages


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a page differs"
    )
    is_check = parser.parse_args().check
    differing = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            differing.append(path.relative_to(ROOT))
            if not is_check:
                path.write_text(new, encoding="utf-8")
    for page in differing:
        print(f"{page}: {'differs from the results' if is_check else 'written'}")
    sys.exit(1 if is_check and differing else 0)


if __name__ == "__main__":
    main()
