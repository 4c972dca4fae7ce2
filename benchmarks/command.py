"""What the commands of this folder share: options, a quiet terminal, files."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.agreement import WrongEngine
from benchmarks.report import surroundings
from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark.workers import quiet
from squeezebert_fast.errors import SqueezeBertFastError


class DataMissing(Exception):
    """There is nothing to measure on, and why."""


def shape(text: str) -> tuple[int, int]:
    batch, _, tokens = text.partition("x")
    if not (batch.isdecimal() and tokens.isdecimal() and int(batch) >= 1 and 1 <= int(tokens) <= 512):
        raise argparse.ArgumentTypeError(f"{text!r} is not BATCHxTOKENS with 1 to 512 tokens, such as 8x128")
    return int(batch), int(tokens)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def parser_for(module: str, description: str | None, repeats: int | None) -> argparse.ArgumentParser:
    """A parser with the options that every command has. repeats: the default, or None for a command without."""
    name = f"python -m benchmarks.{module}"
    parser = argparse.ArgumentParser(prog=name, description=(description or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for JSON and plots")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    if repeats is not None:
        parser.add_argument(
            "--repeats", type=positive, default=repeats, help="rounds; %(default)s by default"
        )
    return parser


def add_precisions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=PRECISIONS, metavar="NAME")


def add_shapes(parser: argparse.ArgumentParser, default: tuple[tuple[int, int], ...]) -> None:
    parser.add_argument("--shapes", type=shape, nargs="+", default=default, metavar="BATCHxTOKENS")


def prepare(chosen: argparse.Namespace) -> None:
    """Threads, the output folder, and `quiet`."""
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    quiet()


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def command_line(module: str) -> str:
    """The command that runs now, without what only says where to go on."""
    return " ".join(
        [
            f"python -m benchmarks.{module}",
            *(shlex.quote(word) for word in sys.argv[1:] if word != "--resume"),
        ]
    )


def about(module: str, repeats: int | None) -> dict[str, object]:
    return surroundings(command_line(module), repeats)


def exit_with(main: Callable[[], None]) -> None:
    """Run `main`; what the user can mend is one line."""
    try:
        main()
    except DataMissing as missing:
        print(f"skipped: {missing}", file=sys.stderr)
    except (SqueezeBertFastError, WrongEngine) as error:
        sys.exit(f"error: {error}")
