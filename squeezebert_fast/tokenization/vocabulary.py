"""The part of a tokenizer that knows tokens and ids: converting, adding, decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import as_index, check_text
from squeezebert_fast.tokenization.decoding import Decoder
from squeezebert_fast.tokenization.lexicon import make_added_token
from squeezebert_fast.tokenization.special_tokens import SpecialTokens


class Vocabulary(SpecialTokens):
    """A tokenizer's tokens and ids."""

    clean_up_tokenization_spaces: bool

    def __len__(self) -> int:
        return len(self._lexicon)

    @property
    def vocab_size(self) -> int:
        """How many ids the vocabulary has without added tokens; `len(tokenizer)` counts them too.

        The size that an embedding needs: ids without a token, see `read_vocab`, count.
        """
        return self._lexicon.vocab_size

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id, added tokens included."""
        return self._lexicon.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added tokens included."""
        return self._lexicon.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens (special tokens among them) with their ids."""
        return {token.content: code for code, token in self._lexicon.added.items()}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id."""
        return dict(self._lexicon.added)

    added_tokens_encoder = property(get_added_vocab)

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Adds tokens, after the vocabulary unless they are in it; returns how many are new.

        Afterwards: `model.resize_token_embeddings(len(tokenizer))`.
        """
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else new_tokens
        if not isinstance(tokens, (list, tuple)):
            raise TokenizerError(f"new_tokens is {new_tokens!r}; expected a token or a list of tokens")
        made = [make_added_token(token, special=special_tokens or is_special(token)) for token in tokens]
        lexicon, changed = self._lexicon.with_tokens(made)
        if changed:
            self._set_lexicon(lexicon)
        return changed

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or the ids of a list of tokens; the unknown token's for unknown ones."""
        unknown, lexicon = self._required("unk_token")[0], self._lexicon
        if isinstance(tokens, str):
            code = lexicon.token_to_id(tokens)
            return unknown if code is None else code
        if not isinstance(tokens, (list, tuple)):
            raise TokenizerError(f"tokens is {tokens!r}; expected a str or a list of str")
        return [
            self.convert_tokens_to_ids(check_text(f"tokens[{at}]", token)) for at, token in enumerate(tokens)
        ]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a list or 1-D tensor of ids; None for unknown ids."""
        ids = plain(ids)
        if not isinstance(ids, (list, tuple)):
            return self._lexicon.id_to_token(as_index("ids", ids, minimum=0))
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        codes = [as_index(f"ids[{at}]", code, minimum=0) for at, code in enumerate(ids)]
        return [self._lexicon.id_to_token(code) for code in codes if code not in skipped]

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text of ids: a str for an id, a list or a 1-D tensor, a list of str for a batch of them."""
        ids = plain(token_ids)
        if isinstance(ids, (list, tuple)) and ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        ids = ids if isinstance(ids, (list, tuple)) else [ids]
        codes = [as_index(f"token_ids[{at}]", code, minimum=0) for at, code in enumerate(ids)]
        clean_up = clean_up_tokenization_spaces
        if clean_up is None:
            clean_up = self.clean_up_tokenization_spaces
        return Decoder(self._lexicon).decode(
            codes, skip_special_tokens=skip_special_tokens, clean_up=clean_up
        )

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of a batch of ids."""
        rows = plain(sequences)
        if isinstance(rows, (list, tuple)) and not rows:
            return []
        texts = self.decode(rows, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Tokens joined to a text: pieces of words to words, and no space before punctuation."""
        return Decoder(self._lexicon).join(tokens)


def is_special(token: str | AddedToken) -> bool:
    """Whether a token to add says that it is special."""
    return isinstance(token, AddedToken) and token.special


def plain(ids: Any) -> Any:
    """A tensor or array as nested lists, a range or iterator as a list; everything else as it is."""
    if isinstance(ids, Mapping):
        ids = ids["input_ids"]
    if isinstance(ids, (range, Iterator)):
        return list(ids)
    return ids.tolist() if hasattr(ids, "tolist") else ids
