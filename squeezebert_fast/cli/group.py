"""How every command ends: exit codes, and one line on stderr for whatever was wrong with the input."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from squeezebert_fast import streams
from squeezebert_fast.errors import SqueezeBertFastError, StorageError, TrainingInterrupted
from squeezebert_fast.signals import ending_in_order
from squeezebert_fast.storage.files import NO_ROOM
from squeezebert_fast.streams import PROGRAM

DEBUG_VARIABLE = "SQUEEZEBERT_FAST_DEBUG"
"""Environment variable that, set to 1, gives the traceback of an error in place of its one line."""

NOT_WRITTEN = 1
BAD_INPUT = 2
INTERRUPTED = 128 + 2  # as a shell reports a program that SIGINT ended

# click's class, through typer because newer typers carry their own copy of click.
UsageError: Any = typer.BadParameter.__base__


class Group(TyperGroup):
    """The group of all commands, which turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        result = super().invoke(ctx)
        sys.stdout.flush()  # a closed pipe must show here, not in a traceback at the interpreter's end
        return result

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command line and leave by SystemExit with an exit code: of docs/command_line.md."""
        streams.open_missing_streams()
        debug = os.environ.get(DEBUG_VARIABLE) == "1"
        try:
            with ending_in_order():
                code = super().main(*args, **{**options, "standalone_mode": False})
        except UsageError as error:
            if debug:
                raise
            hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
            _fail(f"{error.format_message().rstrip('.')}{hint}")
        except TrainingInterrupted as error:
            _fail(str(error), INTERRUPTED)
        except SqueezeBertFastError as error:
            if debug:
                raise
            _fail(str(error), NOT_WRITTEN if isinstance(error, StorageError) else BAD_INPUT)
        except OSError as error:
            if debug:
                raise
            place = error.filename or ("the output can't be written" if error.errno in NO_ROOM else "")
            message = f"{place}: {error.strerror}" if place else str(error)
            _fail(message, NOT_WRITTEN if error.errno in NO_ROOM else BAD_INPUT)
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        sys.exit(code or 0)


def _fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    try:
        # one write: torchrun's processes share stderr
        typer.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    except OSError:  # nobody reads it: the exit code must still tell
        streams.give_up(sys.stderr)
    sys.exit(code)
