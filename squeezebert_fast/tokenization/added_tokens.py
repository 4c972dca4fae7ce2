"""Finding added tokens in a text, in pure Python, as the Rust library `tokenizers` finds them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from squeezebert_fast.tokenization.lexicon import Lexicon
from squeezebert_fast.tokenization.text import WHITESPACE_CHARACTERS
from squeezebert_fast.tokenization.unicode_tables import WORD_CHARACTERS


class AddedTokenFinder:
    """Cuts a text at added tokens: the leftmost match wins, at one place the longest.

    normalized: False to search a text as it is for the tokens with `normalized=False`, True to search a
        normalized text for those with `normalized=True`.
    """

    def __init__(self, lexicon: Lexicon, *, normalized: bool, split_special_tokens: bool) -> None:
        self._skip_special = split_special_tokens
        self._tokens = {
            lexicon.pattern(token): (code, token)
            for code, token in lexicon.added.items()
            if lexicon.is_normalized(token) == normalized
        }
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The parts of `text`, each with the id of the added token that it is, None for plain text."""
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            code, token = self._tokens[match.group()]
            first, last = match.span()
            if self._skip_special and token.special:
                continue
            if token.single_word and (_is_word(text[first - 1 : first]) or _is_word(text[last : last + 1])):
                continue
            if token.lstrip:
                first = max(start, len(text[:first].rstrip(WHITESPACE_CHARACTERS)))
            if token.rstrip:
                last = len(text) - len(text[last:].lstrip(WHITESPACE_CHARACTERS))
            if start < first:
                yield text[start:first], None
            yield text[first:last], code
            start = last
        if start < len(text):
            yield text[start:], None


def _is_word(neighbour: str) -> bool:
    return neighbour != "" and ord(neighbour) in WORD_CHARACTERS
