"""Words that are kept as they are: the `never_split` option."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from squeezebert_fast.tokenization.arguments import Text
from squeezebert_fast.tokenization.lexicon import Lexicon
from squeezebert_fast.tokenization.sequences import Span, TokenSequence
from squeezebert_fast.tokenization.text import WHITESPACE_CHARACTERS


@dataclass
class JoinedSequence:
    """A token sequence put together from several."""

    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    offsets: list[Span] = field(default_factory=list)
    word_ids: list[int] = field(default_factory=list)


class NeverSplit:
    """Takes the words to keep out of texts before the engine sees them; puts their tokens in afterwards.

    A word is kept where it stands between whitespace or the ends of the text (or is a whole pre-split word):
    not lower-cased, stripped or cut, it becomes the vocabulary's token of that very spelling, or the unknown
    token.
    """

    def __init__(self, words: Sequence[str], lexicon: Lexicon, unknown: str, *, with_offsets: bool) -> None:
        self._words = frozenset(words)
        self._tokens = {word: word if lexicon.token_to_id(word) is not None else unknown for word in words}
        self._ids = {word: lexicon.token_to_id(token) or 0 for word, token in self._tokens.items()}
        self._with_offsets = with_offsets
        space = f"[{re.escape(WHITESPACE_CHARACTERS)}]"
        alternatives = "|".join(re.escape(word) for word in words)
        self._pattern = re.compile(rf"(?:(?<={space})|^)(?:{alternatives})(?={space}|\Z)")

    def encode(
        self,
        texts: Sequence[Text],
        is_split: bool,
        engine: Callable[[Sequence[Text], bool], Sequence[TokenSequence]],
    ) -> list[JoinedSequence]:
        """What `engine(texts, is_split)` gives, but for the kept words."""
        pieces = [self._cut(text) for text in texts]
        others = [piece for cut in pieces for _, piece in cut if not self._is_kept(piece)]
        encoded = iter(engine(others, is_split) if others else ())
        return [self._join(cut, encoded) for cut in pieces]

    def _is_kept(self, piece: Text) -> bool:
        return (piece if isinstance(piece, str) else piece[0] if len(piece) == 1 else None) in self._words

    def _cut(self, text: Text) -> list[tuple[int, Text]]:
        """Pieces of the text, kept words alone, each with its first character (first word, if pre-split)."""
        pieces: list[tuple[int, Text]] = []
        start = 0
        if isinstance(text, str):
            spans = [match.span() for match in self._pattern.finditer(text)]
        else:
            spans = [(at, at + 1) for at, word in enumerate(text) if word in self._words]
        for first, last in [*spans, (len(text), len(text))]:
            if start < first:
                pieces.append((start, text[start:first]))
            if first < last:
                pieces.append((first, text[first:last]))
            start = last
        return pieces

    def _join(self, cut: list[tuple[int, Text]], encoded: Iterator[TokenSequence]) -> JoinedSequence:
        joined = JoinedSequence()
        for start, piece in cut:
            split = not isinstance(piece, str)
            first_word = start if split else (joined.word_ids[-1] + 1 if joined.word_ids else 0)
            first_char = 0 if split else start
            if self._is_kept(piece):
                word = piece[0] if split else str(piece)
                joined.ids.append(self._ids[word])
                joined.tokens.append(self._tokens[word])
                joined.offsets.append((first_char, first_char + len(word)))
                joined.word_ids.append(first_word)
                continue
            sequence = next(encoded)
            joined.ids.extend(sequence.ids)
            joined.tokens.extend(sequence.tokens)
            if self._with_offsets:
                joined.offsets.extend((a + first_char, b + first_char) for a, b in sequence.offsets)
                joined.word_ids.extend(word + first_word for word in sequence.word_ids)
        return joined
