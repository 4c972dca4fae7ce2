"""Figures of merit, as the papers and shared tasks define them. All are fractions, not percentages."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezebert_fast.tokenization.text import character_class
from squeezebert_fast.tokenization.unicode_tables import REMOVED
from squeezebert_fast.training.tagging import Scheme

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mse"})

INVISIBLE = re.compile(rf"(?!\s)[{character_class(REMOVED)}]")
"""Characters that every tokenizer of BERT's drops: no answer that is put together from tokens ends in one."""


def better(name: str, value: float, than: float | None) -> bool:
    """Whether `value` of the metric `name` beats `than`; anything but NaN beats None."""
    if than is None or value != value:
        return value == value
    return value < than if name in LOWER_IS_BETTER else value > than


def beats(name: str, ours: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Whether a model with the metrics `ours` is to be kept in place of an earlier one: by `name`, then by the loss."""
    if best is None or ours[name] != best[name]:
        return better(name, ours[name], None if best is None else best[name])
    return better("loss", ours["loss"], best["loss"])


def classification(predicted: Sequence[int], actual: Sequence[int], classes: int) -> dict[str, float]:
    """accuracy, f1_macro over the classes that occur, matthews and, of two classes, f1 of the second.

    Matthews' coefficient is Gorodkin's R_K for more than two classes, and 0 where it is 0 / 0.
    """
    confusion = confused(predicted, actual, classes).astype(float)
    right, true, chosen = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    total = confusion.sum()
    occurs = true + chosen > 0
    f1 = np.divide(2 * right, true + chosen, out=np.zeros(classes), where=occurs)
    scale = float(np.sqrt((total**2 - chosen @ chosen) * (total**2 - true @ true)))
    covariance = float(right.sum() * total - chosen @ true)
    result = {
        "accuracy": float(right.sum() / total),
        "f1_macro": float(f1[occurs].mean()),
        "matthews": covariance / scale if scale > 0 else 0.0,
    }
    return result | ({"f1": float(f1[1])} if classes == 2 else {})


def confused(
    predicted: Sequence[int] | NDArray[np.int64], actual: Sequence[int] | NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """How often each class was taken for each: counts [actual, predicted]."""
    pairs = np.asarray(actual, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


class ClassFigures(NamedTuple):
    """How well one class, or the entities of one type, are found. support: how many of it there are."""

    precision: float
    recall: float
    f1: float
    support: int


def figures(both: int, found: int, there: int) -> ClassFigures:
    """Of how many were found, how many are there, and how many are both. What is 0 / 0 is 0."""
    return ClassFigures(
        both / found if found else 0.0,
        both / there if there else 0.0,
        2 * both / (found + there) if found + there else 0.0,
        there,
    )


@dataclass(frozen=True)
class Confusion:
    """names: the classes. counts: how often each was taken for each, [actual, predicted]."""

    names: Sequence[str]
    counts: NDArray[np.int64]

    def by_class(self) -> dict[str, ClassFigures]:
        """Each class's figures."""
        found, there = self.counts.sum(0).tolist(), self.counts.sum(1).tolist()
        each = zip(self.counts.diagonal().tolist(), found, there, strict=True)
        return {name: figures(*counts) for name, counts in zip(self.names, each, strict=True)}

    def mistakes(self) -> list[tuple[str, str, int]]:
        """What was taken for what, and how often, the most frequent first."""
        wrong = self.counts - np.diag(self.counts.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")
        places = zip(*np.unravel_index(order[: np.count_nonzero(wrong)], wrong.shape), strict=True)
        return [(self.names[a], self.names[b], int(wrong[a, b])) for a, b in places]


class Bin(NamedTuple):
    """The answers whose scores are above `above` (of the lowest bin: from it) and at most `at_most`, and how many.

    score: their mean. right: the fraction that is right.
    """

    above: float
    at_most: float
    answers: int
    score: float
    right: float


class Calibration(NamedTuple):
    """Whether scores are probabilities: of all answers their mean score, the fraction that is right, and

    error: the expected calibration error (Guo et al. 2017, arXiv 1706.04599), the mean of |score - right| over bins,
    weighted by their answers.
    """

    error: float
    score: float
    right: float
    bins: Sequence[Bin]


def calibration(scores: Sequence[float], right: Sequence[bool], bins: int = 15) -> Calibration:
    """Of answers' scores, and whether they are right, over bins of equal width; those without answers are left out."""
    sure, truth = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    place = np.clip(np.ceil(sure * bins) - 1, 0, bins - 1).astype(np.int64)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights, bins) for weights in (sure, truth))
    filled = [
        Bin(at / bins, (at + 1) / bins, int(count), float(score / count), float(good / count))
        for at, (count, score, good) in enumerate(zip(counts, *sums, strict=True))
        if count
    ]
    error = sum(each.answers * abs(each.score - each.right) for each in filled) / len(sure)
    return Calibration(error, float(sure.mean()), float(truth.mean()), filled)


def regression(predicted: Sequence[float], actual: Sequence[float]) -> dict[str, float]:
    """r2, pearson, spearman (ties get their mean rank) and mse.

    r2 is 1 - mse / variance of what is right: 0 for its mean in place of every prediction, less for any other constant,
    and for numbers of the right order but the wrong size, which correlations don't see. Both r2 and a correlation
    count as 0 where a constant leaves them undefined.
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
    mse = float(((x - y) ** 2).mean())
    return {
        "r2": 0.0 if _is_constant(y) else 1 - mse / float(y.var()),
        "pearson": _correlation(x, y),
        "spearman": _correlation(_ranks(x), _ranks(y)),
        "mse": mse,
    }


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if _is_constant(x) or _is_constant(y):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y) / float(np.sqrt((x @ x) * (y @ y)))


def _is_constant(values: NDArray[np.float64]) -> bool:
    """The variance doesn't say it: the mean of three times 0.1 is not 0.1."""
    return bool((values == values[0]).all())


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def tagging(
    predicted: Iterable[Sequence[str]], actual: Iterable[Sequence[str]], scheme: Scheme
) -> dict[str, float]:
    """Precision, recall and f1 of whole entities over all sentences, and the accuracy of single tags.

    Of plain tags the accuracy alone.
    """
    predicted, actual = list(predicted), list(actual)
    words = [pair for both in zip(predicted, actual, strict=True) for pair in zip(*both, strict=True)]
    accuracy = {"accuracy": sum(ours == theirs for ours, theirs in words) / len(words) if words else 0.0}
    if scheme.is_plain:
        return accuracy
    counts = entity_counts(predicted, actual, scheme).values()
    whole = figures(*(sum(each) for each in zip(*counts, strict=True))) if counts else figures(0, 0, 0)
    return {"f1": whole.f1, "precision": whole.precision, "recall": whole.recall, **accuracy}


def entity_counts(
    predicted: Iterable[Sequence[str]], actual: Iterable[Sequence[str]], scheme: Scheme
) -> dict[str, tuple[int, int, int]]:
    """For each type of entity, how many were found where they are, how many were found, and how many are there."""
    both, found, there = (collections.Counter[str]() for _ in range(3))
    for ours, theirs in zip(predicted, actual, strict=True):
        a, b = scheme.entities(ours), scheme.entities(theirs)
        for counts, entities in ((both, a & b), (found, a), (there, b)):
            counts.update(kind for _, _, kind in entities)
    return {kind: (both[kind], found[kind], there[kind]) for kind in sorted(found | there)}


def normalized_answer(text: str) -> str:
    """An answer as SQuAD's own script compares it: no case, punctuation, articles or extra whitespace.

    Nor characters that tokenizers drop, which the script keeps: with them at its edges no answer would be right.
    """
    text = INVISIBLE.sub("", text)
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answers(predicted: Sequence[str], accepted: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD's exact_match and f1, each the best over a question's accepted answers; of none "" is right.

    As in its script for v2.0, an accepted answer of nothing but articles and punctuation is none.
    """
    exact = overlap = 0.0
    for answer, several in zip(predicted, accepted, strict=True):
        accepting = [one for one in several if normalized_answer(one)] or [""]
        exact += max(normalized_answer(answer) == normalized_answer(one) for one in accepting)
        overlap += max(_word_f1(answer, one) for one in accepting)
    return {"f1": overlap / len(predicted), "exact_match": exact / len(predicted)}


def _word_f1(answer: str, accepted: str) -> float:
    ours, theirs = normalized_answer(answer).split(), normalized_answer(accepted).split()
    if not ours and not theirs:
        return 1.0
    shared = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
