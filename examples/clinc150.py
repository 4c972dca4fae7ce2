"""CLINC150 as this package reads it: train.jsonl, dev.jsonl and test.jsonl of its 150 intents.

    python examples/clinc150.py data_full.json OUT

What is out of scope is left out: it has no examples to learn from but a hundred.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SPLITS = {"train": "train", "val": "dev", "test": "test"}


def main(source: Path, out: Path) -> None:
    splits = json.loads(source.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    for theirs, ours in SPLITS.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in splits[theirs]]
        (out / f"{ours}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
