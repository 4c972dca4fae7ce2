"""A vocabulary with the tokens added on top of it: which token has which id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.text import WHITESPACE_CHARACTERS, TextNormalizer


class Lexicon:
    """Tokens and ids, never changed once built, so that threads may share them: `with_tokens` makes another.

    vocab: the model's own vocabulary, ids 0 to n - 1 without a gap.
    added: id -> AddedToken for tokens that are found in a text as they are, before it is cut into words; a
        token of the vocabulary (such as `[MASK]`) keeps its id, others follow after the vocabulary.
    normalize: the tokenizer's; added tokens with `normalized=True` go through it as the text does.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        normalize: TextNormalizer,
        added: Mapping[int, AddedToken] | None = None,
    ) -> None:
        self.vocab = dict(vocab)
        self.normalize = normalize
        self.added = dict(sorted((added or {}).items()))
        self._ids = self.vocab | {token.content: code for code, token in self.added.items()}
        self._tokens = {code: token for token, code in self.vocab.items()}
        self._tokens |= {code: self.pattern(token) for code, token in self.added.items()}
        self.special_tokens = frozenset(token.content for token in self.added.values() if token.special)

    def __len__(self) -> int:
        return len(self._ids)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, None if there is no such token."""
        return self._ids.get(token)

    def id_to_token(self, code: int) -> str | None:
        """The token of an id, None if there is no such id."""
        return self._tokens.get(code)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return dict(self._ids)

    def with_tokens(self, tokens: Iterable[AddedToken]) -> tuple[Lexicon, int]:
        """A lexicon with these tokens added too, and how many of them weren't already added just so."""
        added, ids, changed = dict(self.added), dict(self._ids), 0
        for token in tokens:
            if not token.content:
                raise TokenizerError("an added token is empty; expected at least one character")
            code = ids.setdefault(token.content, len(ids))
            if code in added and repr(added[code]) == repr(token):
                continue
            added[code] = token
            changed += 1
        self._check_distinct(added.values())
        return Lexicon(self.vocab, self.normalize, added), changed

    def pattern(self, token: AddedToken) -> str:
        """What an added token is found as in a text, and decoded to."""
        return self.normalize(token.content) if token.normalized else token.content

    def _check_distinct(self, tokens: Iterable[AddedToken]) -> None:
        # The Rust library would find one of the two, now this, now that: it iterates over a hash map.
        seen: dict[str, str] = {}
        for token in tokens:
            if token.normalized and seen.setdefault(self.pattern(token), token.content) != token.content:
                other = seen[self.pattern(token)]
                raise TokenizerError(
                    f"the added tokens {other!r} and {token.content!r} are the same once normalized"
                )


def make_added_token(token: str | AddedToken, *, special: bool) -> AddedToken:
    """A copy of an added token with this `special`; `normalized` is its opposite unless given."""
    if isinstance(token, str):
        check_unicode(token)
        return AddedToken(token, special=special, normalized=not special)
    if not isinstance(token, AddedToken):
        raise TokenizerError(f"a token is {token!r}; expected a str or tokenizers.AddedToken")
    was_special = token.special
    # An AddedToken doesn't tell whether `normalized` was given, but answers with the default of the moment.
    token.special = special
    try:
        return AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=special,
        )
    finally:
        token.special = was_special


def read_vocab(vocab: Mapping[str, int] | str | os.PathLike[str]) -> dict[str, int]:
    """A vocabulary from a `vocab.txt` (one token a line, its id is the line's number from 0) or a mapping.

    Raises `TokenizerError` for a missing, unreadable or empty file, a blank line, a duplicate, or ids with
    gaps.
    """
    if isinstance(vocab, Mapping):
        return _check_mapping(vocab)
    if not isinstance(vocab, (str, os.PathLike)):
        raise TokenizerError(
            f"vocab is {type(vocab).__name__}; expected the path of a vocab.txt or a dict of ids"
        )
    path = Path(vocab)
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise TokenizerError(f"the vocabulary {path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"the vocabulary {path} isn't UTF-8: byte {error.start} is malformed") from error
    if lines == [""]:
        raise TokenizerError(f"the vocabulary {path} is empty; expected one token a line")
    ids: dict[str, int] = {}
    for code, line in enumerate(lines):
        token = line.rstrip(WHITESPACE_CHARACTERS)
        if not token:
            raise TokenizerError(
                f"the vocabulary {path} has a blank line {code + 1}; expected one token a line"
            )
        if ids.setdefault(token, code) != code:
            raise TokenizerError(
                f"the vocabulary {path} has {token!r} twice: lines {ids[token] + 1} and {code + 1}"
            )
    return ids


def _check_mapping(vocab: Mapping[str, int]) -> dict[str, int]:
    if not vocab:
        raise TokenizerError("the vocabulary is empty; expected a mapping of tokens to ids")
    for token, code in vocab.items():
        if not isinstance(token, str) or not isinstance(code, int) or isinstance(code, bool):
            raise TokenizerError(
                f"the vocabulary maps {token!r} to {code!r}; expected a str mapped to an int"
            )
        check_unicode(token)
    for expected, (code, token) in enumerate(sorted((code, token) for token, code in vocab.items())):
        if code != expected:
            raise TokenizerError(
                f"the vocabulary gives {token!r} the id {code}; expected {expected}: no gap, no double"
            )
    return dict(vocab)


def check_unicode(token: str) -> None:
    """Raises `TokenizerError` for a token that isn't valid Unicode."""
    try:
        token.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the token {token!r} holds a lone surrogate; expected valid Unicode") from error
