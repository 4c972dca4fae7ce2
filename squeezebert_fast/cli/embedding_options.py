"""The options of the commands that make vectors of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from squeezebert_fast.answering.options import POOLINGS, EngineOptions
from squeezebert_fast.cli import options
from squeezebert_fast.errors import InputError, check_among

Pooling = Annotated[
    str | None,
    typer.Option(
        help="mean of the token vectors, or cls for the first one's; by default what a sentence-transformers "
        "folder says, or else mean.",
        autocompletion=options.completing(POOLINGS),
    ),
]


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """How texts become vectors."""

    pooling: Pooling = None
    batch_size: options.BatchSize = 32
    max_length: options.MaxLength = None
    precision: options.Precision = None
    backend: options.Backend = "auto"
    threads: options.Threads = None

    def __post_init__(self) -> None:
        if self.pooling is not None:
            check_among("--pooling", self.pooling, POOLINGS, InputError)

    @property
    def engine(self) -> EngineOptions:
        """What of it says how the model is computed."""
        return EngineOptions.of(self)
