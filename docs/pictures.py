"""Pictures of the commands in a terminal, for the documentation: python -m docs.pictures [NAME ...]

Each command runs here, so its picture tells of this machine, whose processor stands in the title.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).parent / "pictures"
WIDTH = 110

FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""rich's own, without fonts that would be fetched from a CDN."""

EXPLAIN = """
import squeezebert_fast
from squeezebert_fast import SENTIMENT_MODEL, SqueezeBertForSequenceClassification
model = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)
print(squeezebert_fast.explain(squeezebert_fast.patch(model.eval(), precision="int8")))
"""


def _said(*command: str, given: str | None = None) -> str:
    """What a command prints on this terminal's width. Raises CalledProcessError where it fails."""
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    done = subprocess.run(
        [sys.executable, *command], input=given, capture_output=True, text=True, check=True, env=environment
    )
    # where a library is installed is nobody's business
    return re.sub(r"/\S*/(lib\w+\.\S+)", r"\1", done.stdout)


def predict() -> tuple[str, str]:
    sentence = "What a lovely film."
    shown = f'echo "{sentence}" | squeezebert-fast predict -'
    return shown, _said("-m", "squeezebert_fast", "predict", "-", given=f"{sentence}\n")


def doctor() -> tuple[str, str]:
    return "squeezebert-fast doctor", _said("-m", "squeezebert_fast", "doctor")


def explain() -> tuple[str, str]:
    return "print(squeezebert_fast.explain(model))", _said("-c", EXPLAIN)


def bench() -> tuple[str, str]:
    options = ("-m", "shipped:sentiment", "--shapes", "1x32,8x16-128")
    return f"squeezebert-fast bench {' '.join(options)}", _said("-m", "squeezebert_fast", "bench", *options)


PICTURES: dict[str, Callable[[], tuple[str, str]]] = {
    "predict": predict,
    "doctor": doctor,
    "explain": explain,
    "bench": bench,
}
"""By name, what makes the command as it is shown, and what it prints."""


def drawn(shown: str, output: str, processor: str, name: str) -> str:
    """The picture as SVG: a prompt with the command, below it the output, the processor in the title."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    prompt = ">>> " if shown.startswith("print(") else "$ "
    console.print(Text(f"{prompt}{shown}", style="bold"))
    for line in output.splitlines():
        console.print(Text.from_ansi(line), overflow="fold", highlight=False)
    return console.export_svg(title=processor, code_format=FORMAT, unique_id=name)


def main() -> None:
    from benchmarks.report import cpu_model

    for name in sys.argv[1:] or PICTURES:
        if name not in PICTURES:
            sys.exit(f"there is no picture {name!r}: {', '.join(PICTURES)}")
        path = FOLDER / f"{name}.svg"
        path.write_text(drawn(*PICTURES[name](), cpu_model(), name), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
