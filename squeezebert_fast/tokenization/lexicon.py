"""A vocabulary with the tokens added on top of it: which token has which id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.text import TextNormalizer
from squeezebert_fast.tokenization.vocab_file import check_unicode


class Lexicon:
    """Tokens and ids, never changed once built, so that threads may share them: `with_tokens` makes another.

    vocab: the model's own vocabulary. Its highest id bounds an embedding's size; ids below may be without a
        token, where vocab.txt has blank or double lines.
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
        normalized = [token.content for token in self.added.values() if token.normalized]
        firsts = {normalize(content): content for content in reversed(normalized)}
        firsts.pop("", None)
        self._exact = frozenset(normalized) - frozenset(firsts.values())
        self._ids = self.vocab | {token.content: code for code, token in self.added.items()}
        self._tokens = {code: token for token, code in self.vocab.items()}
        self._tokens |= {code: self.pattern(token) for code, token in self.added.items()}
        self.vocab_size = max(self.vocab.values()) + 1
        self._size = max(self._tokens) + 1
        self.special_tokens = frozenset(token.content for token in self.added.values() if token.special)

    def __len__(self) -> int:
        return self._size

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, None if there is no such token."""
        return self._ids.get(token)

    def id_to_token(self, code: int) -> str | None:
        """The token of an id, None if there is no such id."""
        return self._tokens.get(code)

    def content_of(self, code: int) -> str | None:
        """The token of an id as it was added, not as it is found in a text; None if there is no such id."""
        return self.added[code].content if code in self.added else self._tokens.get(code)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return dict(self._ids)

    def with_tokens(self, tokens: Iterable[AddedToken]) -> tuple[Lexicon, int]:
        """A lexicon with these tokens added too, and how many of them weren't already added just so."""
        added, ids, changed = dict(self.added), dict(self._ids), 0
        free = len(self)
        for token in tokens:
            if not token.content:
                raise TokenizerError("an added token is empty; expected at least one character")
            code = ids.setdefault(token.content, free)
            free = max(free, code + 1)
            if code in added and repr(added[code]) == repr(token):
                continue
            added[code] = token
            changed += 1
        return Lexicon(self.vocab, self.normalize, added), changed

    def pattern(self, token: AddedToken) -> str:
        """What an added token is found as in a text, and decoded to."""
        return self.normalize(token.content) if self.is_normalized(token) else token.content

    def is_normalized(self, token: AddedToken) -> bool:
        """Whether an added token is searched for in the normalized text.

        Of tokens that are the same once normalized, such as `Foo` and `foo`, that is the one with the lowest id.
        The others are found where they are spelled exactly so, and so are those of which normalizing leaves
        nothing, such as an accent. (The Rust library would find one of the former, now this, now that, as it
        iterates over a hash map, and the latter between any two characters.)
        """
        return token.normalized and token.content not in self._exact


def make_added_token(token: str | AddedToken, *, special: bool, content: str | None = None) -> AddedToken:
    """A copy of an added token with this `special`, and another `content` if given.

    `normalized` is the opposite of `special` unless it was given.
    """
    if isinstance(token, str):
        check_unicode(token)
        token = AddedToken(token, special=special, normalized=not special)
    if not isinstance(token, AddedToken):
        raise TokenizerError(f"a token is {token!r}; expected a str or tokenizers.AddedToken")
    content = token.content if content is None else content
    check_unicode(content)
    was_special = token.special
    # An AddedToken doesn't tell whether `normalized` was given, but answers with the default of the moment.
    token.special = special
    try:
        return AddedToken(
            content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=special,
        )
    finally:
        token.special = was_special
