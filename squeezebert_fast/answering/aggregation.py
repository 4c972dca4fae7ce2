"""From labels of tokens to entities, in the ways of transformers' TokenClassificationPipeline and with its answers.

    tokens             Micro  ##soft  in    New    York
    labels             B-ORG  I-PER   O     B-LOC  I-LOC
    none               each token whose label isn't O
    simple             Micro ORG, ##soft PER, New York LOC     neighbours of one type, from each B- on
    first              Microsoft ORG, New York LOC             a word has the label of its first token
    average            the label of the mean of its tokens' scores
    max                the label of its surest token

What it doesn't know are schemes with ends (IOBES, BILOU, ...), of which it takes E-LOC for a type of its own, and those
without types (B, M, E, S). Here their letters are read as B and I, so that B-LOC E-LOC is one entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from squeezebert_fast.pretrained import Tokenizer
from squeezebert_fast.training.tagging import AS_IOBES, OUTSIDE, TYPED, Scheme, scheme_of

BEGINS = ("B", "S")


class Token(NamedTuple):
    """id, its place among the text's tokens, its characters in the text, and its score for each label."""

    id: int
    at: int
    start: int
    end: int
    scores: Tensor


class Part(NamedTuple):
    """A token, or a word: its text, its label with its score, and its characters."""

    word: str
    label: int
    score: float
    at: int
    start: int
    end: int


class Aggregation:
    """strategy: one of options.AGGREGATIONS. labels: by their ids."""

    def __init__(self, tokenizer: Tokenizer, labels: Sequence[str], strategy: str) -> None:
        self.tokenizer, self.labels, self.strategy = tokenizer, list(labels), strategy
        scheme = scheme_of(self.labels)
        self.tags = [_tag(label, scheme) for label in self.labels]
        prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        self.marks_subwords = bool(prefix)

    def entities(self, text: str, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        """The entities of a text, of which these are the tokens, in order."""
        if self.strategy in ("none", "simple"):
            parts = [self._part(self._spelled(token, text)[0], token.scores, [token]) for token in tokens]
        else:
            parts = [self._word(group) for group in self._words(text, tokens)]
        if self.strategy == "none":
            return [
                {
                    "entity": self.labels[part.label],
                    "score": part.score,
                    "index": part.at,
                    "word": part.word,
                    "start": part.start,
                    "end": part.end,
                }
                for part in parts
                if self.labels[part.label] != OUTSIDE
            ]
        return [
            self._entity(group) for group in self._groups(parts) if self.tags[group[0].label][1] != OUTSIDE
        ]

    def _spelled(self, token: Token, text: str) -> tuple[str, bool]:
        """A token's text, and whether it goes on with a word."""
        word, written = self.tokenizer.convert_ids_to_tokens(token.id), text[token.start : token.end]
        if token.id == self.tokenizer.unk_token_id:
            return written, False
        if self.marks_subwords:
            return word, len(word) != len(written)
        # of byte pairs and sentence pieces, where punctuation thus goes on with the word before it
        return word, token.start > 0 and " " not in text[token.start - 1 : token.start + 1]

    def _words(self, text: str, tokens: Sequence[Token]) -> list[list[tuple[Token, str]]]:
        groups: list[list[tuple[Token, str]]] = []
        for token in tokens:
            word, goes_on = self._spelled(token, text)
            if goes_on and groups:
                groups[-1].append((token, word))
            else:
                groups.append([(token, word)])
        return groups

    def _word(self, group: Sequence[tuple[Token, str]]) -> Part:
        tokens = [token for token, _ in group]
        if self.strategy == "first":
            scores = tokens[0].scores
        elif self.strategy == "max":
            scores = max((token.scores for token in tokens), key=lambda each: float(each.max()))
        else:
            scores = sum((token.scores for token in tokens[1:]), tokens[0].scores) / len(tokens)
        return self._part(
            self.tokenizer.convert_tokens_to_string([word for _, word in group]), scores, tokens
        )

    def _part(self, word: str, scores: Tensor, tokens: Sequence[Token]) -> Part:
        label = int(scores.argmax())
        return Part(word, label, float(scores[label]), tokens[0].at, tokens[0].start, tokens[-1].end)

    def _groups(self, parts: Sequence[Part]) -> list[list[Part]]:
        """Neighbours of one type, each beginning with a B- or where the type changes."""
        groups: list[list[Part]] = []
        for part in parts:
            begins, kind = self.tags[part.label]
            if groups and not begins and kind == self.tags[groups[-1][-1].label][1]:
                groups[-1].append(part)
            else:
                groups.append([part])
        return groups

    def _entity(self, group: Sequence[Part]) -> dict[str, Any]:
        return {
            "entity_group": self.tags[group[0].label][1],
            "score": sum(part.score for part in group) / len(group),
            "word": self.tokenizer.convert_tokens_to_string([part.word for part in group]),
            "start": group[0].start,
            "end": group[-1].end,
        }


def _tag(label: str, scheme: Scheme) -> tuple[bool, str]:
    """Whether a label begins an entity, and its type. A label without a scheme's form is a type that goes on."""
    if match := TYPED.fullmatch(label):
        return AS_IOBES[match[1]] in BEGINS, match[2]
    if label in AS_IOBES and label not in scheme.others and not scheme.is_plain:  # a scheme without types
        return AS_IOBES[label] in BEGINS, ""
    return False, label
