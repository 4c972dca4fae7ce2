"""How a data file's labels meet a model's: one rule for every command.

    the data's                 the model's
    negative, positive         negative, positive     by name; case, and spaces around it, don't count
    0, 1                       negative, positive     whole numbers stand for the model's labels in their order;
    0.0, 1.0   LABEL_0, ...    negative, positive     pandas and transformers write them so
    0, 1                       LABEL_0, LABEL_1       the same: these are no names
    negative, positive         LABEL_0, LABEL_1       refused, since nothing says which is which

`given` (--labels) are the names that the numbers 0, 1, ... stand for, and those of the labels of a model without names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeezebert_fast.errors import InputError

NUMBERED = re.compile(r"(?:label_)?([0-9]{1,9})(?:\.0+)?", re.IGNORECASE)
LISTED = 5  # labels that a message names
WANTED = "--labels"
MANY = 20  # different numbers, more than a scale of marks has


@dataclass(frozen=True)
class Meeting:
    """ids: from each of the data's labels to the model's id. names: the model's labels, by id.

    reading: how numbers were understood, for the user to see; "" where labels met by name.
    """

    ids: Mapping[str, int]
    names: Sequence[str]
    reading: str = ""


def meet(
    found: Mapping[str, str], names: Sequence[str], given: Sequence[str] = (), whose: str = "the model's"
) -> Meeting:
    """Which of a model's labels the data's are.

    found: the data's labels, and where each stands first. names: the model's, by id. given: of --labels.
    whose: the names are, in an error. Raises InputError for labels that don't meet, with both sets.
    """
    names = _named(names, given, whose)
    known = _spellings(names)
    ids = {label: known.get(label, known.get(_plain(label))) for label in found}
    unknown = [label for label, index in ids.items() if index is None]
    if not unknown:
        return Meeting({label: index for label, index in ids.items() if index is not None}, names)
    order = [known[_plain(name)] for name in given] or list(range(len(names)))
    numbers = {label: number for label in found if (number := number_of(label)) is not None}
    of_names = given or not any(number_of(name) is not None for name in names) or are_unnamed(names)
    if len(numbers) == len(found) and of_names and max(numbers.values()) < len(order):
        reading = ""
        if not are_unnamed(names):
            pairs = sorted((number, names[order[number]]) for number in set(numbers.values()))
            shown = _first(str(number) for number, _ in pairs)
            reading = f"the labels {shown} are read as {_first(name for _, name in pairs)}"
        return Meeting({label: order[number] for label, number in numbers.items()}, names, reading)
    hint = not given and whose != WANTED and len(found) <= len(names)
    raise InputError(_why_not(found, unknown, names, whose, hint))


def number_of(label: str) -> int | None:
    """The number that a label is, as it is, as a float or as transformers' LABEL_n; None for a name."""
    match = NUMBERED.fullmatch(label.strip())
    return None if match is None else int(match[1])


def are_unnamed(names: Sequence[str]) -> bool:
    """Whether a model's labels are no names, but their own numbers: 0, 1, ... or LABEL_0, LABEL_1, ..."""
    return [number_of(name) for name in names] == list(range(len(names)))


def names_for(
    found: Mapping[str, str],
    own: Sequence[str],
    given: Sequence[str] = (),
    known: Sequence[str] = (),
    *,
    teacher: bool = False,
) -> list[str]:
    """The labels of a model that is to learn from data, by id.

    found: as `meet` takes them. own: the same labels, in an order for want of a better one. given: of --labels. known:
    those of the model that training starts from, which keeps them where the data has them all; or of a teacher, whose
    student answers as it does. Raises InputError as `meet` does, against `given` and a teacher's labels.
    """
    if given:
        return list(meet(found, given, whose=WANTED).names)
    if not known or set(known) == set(own):  # the checkpoint's order of them is `load_to_train`'s to keep
        return list(own)
    try:
        meeting = meet(found, known, whose="the teacher's" if teacher else "the model's")
    except InputError:
        if teacher:
            raise
        return list(own)
    whole = len(set(meeting.ids.values())) == len(known)
    if are_unnamed(known):
        return list(own) if whole or not teacher else [str(index) for index in range(len(known))]
    return list(known) if whole or teacher else list(own)


def fields(names: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """A configuration's fields for labels, by id."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def matching(
    teacher: Mapping[int, str], student: Mapping[int, str] | None, given: Sequence[str] = ()
) -> list[int]:
    """For each label of a student the teacher's id. Raises InputError where they don't meet."""
    own = in_order(student)
    meeting = meet(dict.fromkeys(own, "the student"), in_order(teacher), given, "the teacher's")
    return [meeting.ids[name] for name in own]


def in_order(labels: Mapping[int, str] | None) -> list[str]:
    """The labels of a configuration's id2label, by id."""
    return [str(label) for _, label in sorted((labels or {}).items())]


def places_of(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    """From labels and their places to each label's first place."""
    found: dict[str, str] = {}
    for label, place in labels:
        found.setdefault(label, place)
    return found


def some_labels(labels: Iterable[str]) -> str:
    """The first labels, for a message."""
    return _first(repr(label) for label in labels)


def _first(words: Iterable[str]) -> str:
    known = list(words)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(known[:LISTED]) + more


def _plain(label: str) -> str:
    return label.strip().casefold()


def _spellings(names: Sequence[str]) -> dict[str, int]:
    """The ids by name, and by name without case and spaces where only one is so."""
    plain = [_plain(name) for name in names]
    once = {text: index for index, text in enumerate(plain) if plain.count(text) == 1}
    return once | {name: index for index, name in enumerate(names)}


def _named(names: Sequence[str], given: Sequence[str], whose: str) -> Sequence[str]:
    """A model's labels as --labels names them, in their order, where they are no names or others."""
    if not given:
        return names
    known = _spellings(names)
    there = [_plain(name) in known or name in known for name in given]
    if all(there) and not are_unnamed(names):
        return names
    if any(there) and not are_unnamed(names):
        raise InputError(f"--labels is {some_labels(given)}, but {whose} labels are {some_labels(names)}")
    if len(given) != len(names):
        raise InputError(
            f"--labels is {some_labels(given)}, {len(given)} in all, but {whose} labels are {len(names)}, "
            f"{some_labels(names)}"
        )
    return list(given)


def _why_not(
    found: Mapping[str, str], unknown: Sequence[str], names: Sequence[str], whose: str, hint: bool
) -> str:
    place, label = found[unknown[0]], unknown[0]
    fractions = are_numbers(found) and any(number_of(each) is None for each in found)
    advice = "; --task regression learns and measures numbers" if fractions else ""
    if len(unknown) < len(found):
        return f"{place}: the label {label!r} is not one of {some_labels(names)}{advice}"
    if not fractions and all(number_of(each) is not None for each in found):
        advice = "; numbers stand for labels from 0 on"
    elif not fractions and hint:
        advice = f"; if they mean the same, name {whose} in their order: --labels FIRST,SECOND"
    shown = f"the data's labels are {some_labels(sorted(found))}, {whose} {some_labels(names)}"
    return f"{place}: {shown}{advice}"


def refuse_numbers(labels: Sequence[str]) -> None:
    """Raise InputError for labels of training data that are numbers to learn, rather than names of classes.

    They are if there are many and not all are whole, or lie far apart.
    """
    different = set(labels)
    if not are_numbers(different):
        return
    values = sorted({float(label) for label in different})
    fractions = any(not value.is_integer() for value in values)
    apart = values[-1] - values[0] > 2 * len(values)
    seldom_twice = 2 * len(values) > len(labels)
    if (len(values) > MANY and (fractions or apart)) or (fractions and seldom_twice):
        raise InputError(
            f"the labels are {len(values)} different numbers, from {values[0]:g} to {values[-1]:g}: --task regression "
            "learns numbers, --task classification takes each for the name of a class"
        )


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether every label is a number, whole or not."""
    try:
        return all(math.isfinite(float(label)) for label in labels)
    except ValueError:
        return False
