"""SQuAD's JSON files, v1.1 and v2.0: questions on paragraphs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from squeezebert_fast.errors import InputError
from squeezebert_fast.tables.blanks import LEFT_OUT, Blanks, any_blank
from squeezebert_fast.tables.sources import Source, files_of, name_of


class Question(NamedTuple):
    """A question on a paragraph, its accepted answers (none of one that has no answer), and where the first starts."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    start: int

    @property
    def end(self) -> int:
        """The character after the first answer."""
        return self.start + len(self.answers[0]) if self.answers else self.start


def read_squad(source: str) -> list[Question]:
    """The questions of a file, or several, as `tables.rows.Rows` finds them, without those that are empty or have an
    empty context, of which a warning tells.

    Raises InputError, naming file and place, for what SQuAD files don't have there.
    """
    questions, blanks = [], Blanks()
    for file in files_of(source):
        for question, place in _questions(Source(file)):
            if any_blank((question.question, question.context)):
                blanks.note(place)
            else:
                questions.append(question)
    if not questions:
        raise InputError(f"{name_of(source)} holds no questions{' but empty ones' if blanks.count else ''}")
    blanks.warn(LEFT_OUT)
    return questions


def _questions(source: Source) -> Iterator[tuple[Question, str]]:
    """Each question and where it stands."""
    spelled = "".join(source.pieces())
    try:
        data = json.loads(spelled)
    except (ValueError, RecursionError) as error:  # its message has the line
        raise InputError(f"{source.name} is not valid JSON: {error}") from error
    for article_at, article in enumerate(_field(data, "data", list, source.name)):
        article_place = f"{source.name}, data[{article_at}]"
        for paragraph_at, paragraph in enumerate(_field(article, "paragraphs", list, article_place)):
            place = f"{article_place}.paragraphs[{paragraph_at}]"
            context = _field(paragraph, "context", str, place)
            for at, entry in enumerate(_field(paragraph, "qas", list, place)):
                yield _question(entry, context, f"{place}.qas[{at}]"), f"{place}.qas[{at}]"


def _question(entry: Any, context: str, place: str) -> Question:
    id = str(_field(entry, "id", (str, int), place))
    place = f"{place} ({id})"
    question = _field(entry, "question", str, place)
    answers = _field(entry, "answers", list, place)
    if entry.get("is_impossible"):
        if answers:
            raise InputError(f"{place} is_impossible, but has answers")
        return Question(id, question, context, (), 0)
    if not answers:
        raise InputError(f"{place} has no answers")
    texts = tuple(_field(answer, "text", str, place) for answer in answers)
    start = _field(answers[0], "answer_start", int, place)
    if not texts[0] or start < 0 or context[start : start + len(texts[0])] != texts[0]:
        raise InputError(f"{place}: the answer {texts[0][:60]!r} is not at character {start} of its context")
    return Question(id, question, context, texts, start)


def _field(value: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{place}: {name} is missing or not a {expected}, which SQuAD files have there")
    return found
