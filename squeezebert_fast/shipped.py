"""The model that comes with the package, and the name by which commands know it."""

from __future__ import annotations

import os
from pathlib import Path

from squeezebert_fast.errors import CheckpointError

PREFIX = "shipped:"
"""What no hub id has: the name of a shipped model is never taken for another's."""
SENTIMENT = f"{PREFIX}sentiment"
"""What --model, and whatever else takes a model's directory or hub id, takes for `SENTIMENT_MODEL`."""

SENTIMENT_MODEL = Path(__file__).parent / "models" / "sentiment"
"""A directory for `from_pretrained`: a SqueezeBertForSequenceClassification in int8, and its tokenizer, that tells
positive from negative sentences in English. The README.md in it is its model card.

>>> model = squeezebert_fast.load_quantized(SENTIMENT_MODEL)
>>> model.config.id2label
{0: 'negative', 1: 'positive'}
"""


def refuse_as_output(name_or_path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError for a directory to write that could not be named as a model afterwards."""
    if os.fspath(name_or_path).startswith(PREFIX):
        raise CheckpointError(
            f"{name_or_path} begins as the names of shipped models do; expected a directory to write to"
        )


def directory_of(name_or_path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The directory of a shipped model that is given by its name; anything else as it is.

    Raises CheckpointError for a name that begins as those do, and is of no shipped model.
    """
    name = os.fspath(name_or_path)
    if not name.startswith(PREFIX):
        return name_or_path
    if name != SENTIMENT:
        raise CheckpointError(f"no model of the name {name} comes with the package; {SENTIMENT} does")
    return SENTIMENT_MODEL
