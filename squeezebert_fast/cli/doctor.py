"""`squeezebert-fast doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Tell what this installation can do on this machine, and why not more.

    Example: squeezebert-fast doctor
    """
    from squeezebert_fast.diagnostics import doctor as examine

    report = examine()
    if as_json:
        typer.echo(json.dumps({title: dict(rows) for title, rows in report.sections.items()}, indent=2))
    else:
        typer.echo(str(report))
