"""What the commands of this folder write and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.arm.program import COMPILERS
from benchmarks.arm.tools import ToolFailed, first_line
from benchmarks.command import console
from benchmarks.report import write_json


def versions(machine: str = "aarch64") -> dict[str, str]:
    """Of the tools on which figures depend. No hardware is among them."""
    return {
        "compiler": first_line(COMPILERS[machine], "--version"),
        "emulator": first_line("qemu-aarch64", "--version"),
    }


def commit(
    path: Path, module: str, rows: list[dict[str, Any]], machine: str = "aarch64", **more: Any
) -> None:
    """Write rows, with the command and the tools that made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.arm.{module} --out {path.parent}"
    write_json(path, {"command": command, "versions": versions(machine), **more, "rows": rows})
    console().print(f"wrote {path}")


def exit_with(main: Callable[[], None]) -> None:
    """Run `main`; a tool that fails is one line."""
    try:
        main()
    except (ToolFailed, ValueError) as error:
        sys.exit(f"error: {error}")
