"""The questions of a SQuAD file as rows of a table: id, title, question and context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from squeezebert_fast.errors import InputError


def questions(file: Any, name: str) -> Iterator[dict[str, Any]]:
    """A row for each question, without the answers that the file has. Raises InputError for a file of anything else."""
    for article in _items(file, "data", name):
        for paragraph in _items(article, "paragraphs", name):
            for entry in _items(paragraph, "qas", name):
                if not isinstance(entry, dict):
                    raise InputError(f"{name} has {str(entry)[:40]!r} in place of a question")
                yield {
                    "id": entry.get("id"),
                    "title": article.get("title"),
                    "question": entry.get("question"),
                    "context": paragraph.get("context"),
                }


def _items(value: Any, key: str, name: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise InputError(
            f"{name} is a JSON object without a list of {key!r}: neither a list of objects nor questions as SQuAD has"
        )
    return found
