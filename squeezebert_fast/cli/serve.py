"""`squeezebert-fast serve`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.cli.spreading import spread
from squeezebert_fast.errors import InputError
from squeezebert_fast.serving.options import ServingOptions

NEEDED = ("ray", "fastapi", "uvicorn")


@spread
def serve(
    model: options.Model,
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 8000,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on the Ray cluster at this address, or auto; where Serve runs there already, it listens as that "
            "does. By default on a cluster of this server's own, which only this machine reaches.",
        ),
    ] = None,
    serving: ServingOptions,
) -> None:
    """Answer requests over HTTP: OpenAI's /v1/embeddings, /predict or /fill-mask, as the model is for.

    Requests that come together run through the model together, without padding. GET / is a page to try it, /docs tells
    how to ask, /metrics is for Prometheus. SIGTERM ends it once what was asked is answered.

    Example:

        squeezebert-fast serve -m shipped:sentiment --port 8000
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"serve needs {missing[0]}: pip install squeezebert-fast[ray]")

    from squeezebert_fast.serving.lifecycle import run

    raise typer.Exit(run(model, serving, host=host, port=port, ray=ray))
