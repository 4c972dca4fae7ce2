"""What goes from an endpoint to the model, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from squeezebert_fast.errors import SqueezeBertFastError
from squeezebert_fast.tables.rows import Record

EMBEDDINGS, PREDICT, FILL_MASK = "/v1/embeddings", "/predict", "/fill-mask"


@dataclass(frozen=True)
class Offer:
    """What a server has: the model's name, the endpoint that it answers, and what its texts look like.

    channels: the length of its vectors, if it makes any. pairs: whether texts are pairs: no, they may, or must be.
    columns: what the texts of a pair are. choices: how many each text has. mask_token: of a masked language model.
    """

    name: str
    endpoint: str
    channels: int | None = None
    pairs: Literal["no", "may", "must"] = "no"
    columns: tuple[str, ...] = ()
    choices: int = 0
    mask_token: str | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What clients may want to know, without what says nothing about this model."""
        fields = {
            "endpoints": [self.endpoint],
            "dimensions": self.channels,
            "pairs": self.pairs if self.endpoint == PREDICT else None,
            "columns": self.columns or None,
            "choices": self.choices or None,
            "mask_token": self.mask_token,
        }
        return {name: value for name, value in fields.items() if value is not None}


def texts_of(record: Record) -> tuple[str, ...]:
    """All that is tokenized of it."""
    return (record.text, *(() if record.pair is None else (record.pair,)), *record.choices)


@dataclass(frozen=True)
class Work:
    """Some texts of one request. top_k: of masks, the tokens to give for each."""

    records: tuple[Record, ...]
    top_k: int = 0

    def parts(self, size: int, characters: int) -> list[Work]:
        """The same texts in parts of at most `size`, and of at most so many characters unless one text has more."""
        parts: list[list[Record]] = []
        left = 0
        for record in self.records:
            length = sum(map(len, texts_of(record)))
            if not parts or len(parts[-1]) == size or length > left:
                parts.append([])
                left = characters
            parts[-1].append(record)
            left -= length
        return [Work(tuple(part), self.top_k) for part in parts]


@dataclass(frozen=True)
class Done:
    """An answer to each text, and the tokens that were computed for all of them."""

    answers: list[Any]
    tokens: int


Outcome = Done | SqueezeBertFastError
"""Of one work in a batch: an error of one isn't the others'."""
