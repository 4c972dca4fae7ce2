"""What can be chosen about a server. Both the command and the builder for configuration files take these."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from squeezebert_fast.answering.options import BACKENDS, POOLINGS, PRECISIONS, EngineOptions
from squeezebert_fast.errors import InputError, check_among

MEBIBYTE = 2**20


def _option(
    default: Any, help: str, at_least: int | None = None, *, values: Sequence[str] | None = None
) -> Any:
    """A field of ServingOptions, which the command line makes an option of."""
    return field(default=default, metadata={"help": help, "at_least": at_least, "values": values})


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How a model is served. `model` is its directory or its id on the hub."""

    replicas: int = _option(
        1,
        "Copies of the model, each in a process of its own; without --threads they share this machine's CPUs.",
        1,
    )
    max_batch: int = _option(64, "Texts that run through the model at once, of all requests together.", 1)
    max_wait_ms: float = _option(
        0.0,
        "Milliseconds that a batch waits for further requests. By default none: a batch is what came while the one "
        "before it ran.",
        0,
    )
    max_queue: int = _option(
        1024, "Texts that may wait in a replica. Beyond it requests are answered 503 with Retry-After.", 1
    )
    max_texts: int = _option(2048, "Texts that a request may hold.", 1)
    max_characters: int = _option(
        100_000, "Characters that a text may have: all of it is tokenized before it is cut.", 1
    )
    max_body_mib: float = _option(8.0, "Size of a request's body at most, in MiB.", 0)
    served_name: str | None = _option(
        None,
        "The name that clients call the model by; by default its directory's name, or its id on the hub.",
    )
    threads: int | None = _option(
        None,
        "Threads that a replica computes with; by default all replicas share this machine's CPUs.",
        1,
    )
    precision: str | None = _option(
        None,
        "Compute in float32, bfloat16 or, on a CPU, int8; by default as the model is stored.",
        values=PRECISIONS,
    )
    backend: str = _option(
        "auto",
        "auto, reference, cpu or triton; one that is named and can't serve is an error.",
        values=BACKENDS,
    )
    max_length: int | None = _option(
        None,
        "Tokens at which a text is cut; by default as in the model's training, or else as many as it takes.",
        1,
    )
    pooling: str | None = _option(
        None,
        "For vectors: mean of the token vectors, or cls for the first one's; by default what a sentence-transformers "
        "folder says, or else mean.",
        values=POOLINGS,
    )
    prompt_name: str | None = _option(
        None,
        "Of a sentence-transformers folder or a CrossEncoder: which of its prompts each text begins with.",
    )

    def __post_init__(self) -> None:
        if self.pooling is not None:
            check_among("--pooling", self.pooling, POOLINGS, InputError)
        for each in dataclasses.fields(self):
            least, value = each.metadata.get("at_least"), getattr(self, each.name)
            if least is not None and value is not None and value < least:
                raise InputError(f"--{each.name.replace('_', '-')} is {value}, expected {least} or more")

    @property
    def engine(self) -> EngineOptions:
        """What of it says how the model is computed."""
        return EngineOptions.of(self)

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mib * MEBIBYTE)
