"""`SqueezeBertTokenizer`: BERT's basic tokenization and WordPiece in pure Python."""

from __future__ import annotations

from collections.abc import Sequence

from squeezebert_fast.tokenization.added_tokens import AddedTokenFinder
from squeezebert_fast.tokenization.arguments import Text
from squeezebert_fast.tokenization.base import TokenizerBase
from squeezebert_fast.tokenization.decoding import CONTINUATION
from squeezebert_fast.tokenization.lexicon import Lexicon
from squeezebert_fast.tokenization.sequences import PlainSequence
from squeezebert_fast.tokenization.text import split_words

MAX_CHARACTERS_PER_WORD = 100
"""Longer words become the unknown token."""


class WordPieceEngine:
    """Texts to token sequences: find added tokens, clean, cut into words, cut these into known pieces."""

    def __init__(self, lexicon: Lexicon, unknown: str, *, split_special_tokens: bool) -> None:
        self._vocab = lexicon.vocab
        self._unknown = unknown
        self._unknown_id = lexicon.vocab[unknown]
        self._normalize = lexicon.normalize
        split = split_special_tokens
        self._raw_tokens = AddedTokenFinder(lexicon, normalized=False, split_special_tokens=split)
        self._normalized_tokens = AddedTokenFinder(lexicon, normalized=True, split_special_tokens=split)
        self._longest = max(map(len, self._vocab))

    def __call__(self, texts: Sequence[Text], is_split: bool) -> list[PlainSequence]:
        """The token sequence of each text; a pre-split text is tokenized word by word."""
        sequences = []
        for text in texts:
            sequence = PlainSequence([], [])
            for part in text if is_split else (text,):
                self._tokenize(str(part), sequence)
            sequences.append(sequence)
        return sequences

    def _tokenize(self, text: str, into: PlainSequence) -> None:
        for raw, raw_id in self._raw_tokens.split(text):
            if raw_id is not None:
                into.ids.append(raw_id)
                into.tokens.append(raw)
                continue
            for part, part_id in self._normalized_tokens.split(self._normalize(raw)):
                if part_id is not None:
                    into.ids.append(part_id)
                    into.tokens.append(part)
                    continue
                for word in split_words(part):
                    self._split_word(word, into)

    def _split_word(self, word: str, into: PlainSequence) -> None:
        """Greedy longest-match-first; one unknown token if any part of the word is in no piece."""
        pieces: list[str] = []
        start = 0
        while start < len(word) <= MAX_CHARACTERS_PER_WORD:
            prefix = CONTINUATION if start else ""
            for stop in range(min(len(word), start + self._longest), start, -1):
                piece = prefix + word[start:stop]
                if piece in self._vocab:
                    pieces.append(piece)
                    start = stop
                    break
            else:
                break
        if start < len(word):
            into.ids.append(self._unknown_id)
            into.tokens.append(self._unknown)
        else:
            into.ids.extend(self._vocab[piece] for piece in pieces)
            into.tokens.extend(pieces)


class SqueezeBertTokenizer(TokenizerBase):
    """Tokenizes in pure Python; the same ids as `SqueezeBertTokenizerFast`, without offsets and word ids.

    See `TokenizerBase` for the arguments and methods.

    Source: transformers' `SqueezeBertTokenizer`.

    >>> tokenizer = SqueezeBertTokenizer.from_pretrained(SENTIMENT_MODEL)
    >>> tokenizer.tokenize("A lovely film!")
    ['a', 'lovely', 'film', '!']
    """

    is_fast = False

    def _build_engine(self, lexicon: Lexicon) -> WordPieceEngine:
        return WordPieceEngine(
            lexicon, self._token("unk_token"), split_special_tokens=self.split_special_tokens
        )
