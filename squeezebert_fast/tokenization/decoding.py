"""From ids back to text, as the Rust library's WordPiece decoder and transformers do it."""

from __future__ import annotations

from collections.abc import Sequence

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.lexicon import Lexicon

CONTINUATION = "##"
"""Opens every piece of a word but the first."""

_CONTRACTIONS = [(" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]
_PUNCTUATION = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")]
_CLEAN_TEXT = [*_PUNCTUATION, *_CONTRACTIONS]
_CLEAN_TOKEN = [*_PUNCTUATION, *_CONTRACTIONS[:2], (" do not", " don't"), *_CONTRACTIONS[2:]]


class Decoder:
    """Joins tokens to a text."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, clean_up: bool) -> str:
        """The text of ids; ids out of range are left out, as in transformers.

        clean_up: also close the spaces before punctuation and in contractions that span tokens.
        """
        tokens = [token for code in ids if (token := self._lexicon.id_to_token(code)) is not None]
        if skip_special_tokens:
            tokens = [token for token in tokens if token not in self._lexicon.special_tokens]
        text = self.join(tokens)
        return _replace(text, _CLEAN_TEXT) if clean_up else text

    @staticmethod
    def join(tokens: Sequence[str]) -> str:
        """The text of tokens."""
        if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
            raise TokenizerError(f"tokens is {tokens!r}; expected a list of str")
        return "".join(_replace(_spaced(at, token), _CLEAN_TOKEN) for at, token in enumerate(tokens))


def _spaced(at: int, token: str) -> str:
    if at == 0:
        return token
    return token.removeprefix(CONTINUATION) if token.startswith(CONTINUATION) else f" {token}"


def _replace(text: str, replacements: list[tuple[str, str]]) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text
