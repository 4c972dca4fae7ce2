"""`squeezebert-fast doctor`."""

from __future__ import annotations

import json

import typer

from squeezebert_fast.cli import options


def doctor(
    as_json: options.AsJson = False,
) -> None:
    """Tell what this installation can do on this machine, and why not more.

    Example:

        squeezebert-fast doctor
    """
    from squeezebert_fast.diagnostics import doctor as examine

    report = examine()
    if as_json:
        typer.echo(json.dumps({title: dict(rows) for title, rows in report.sections.items()}, indent=2))
    else:
        typer.echo(str(report))
