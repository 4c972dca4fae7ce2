"""Special tokens: which they are, and what they add to a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError, one_of
from squeezebert_fast.tokenization.arguments import as_index
from squeezebert_fast.tokenization.files import SPECIAL_TOKENS
from squeezebert_fast.tokenization.lexicon import Lexicon, make_added_token
from squeezebert_fast.tokenization.sequences import special_token_count

# Where the vocabulary lacks these, it isn't BERT's; other spellings that it lacks are added to it.
_IN_VOCABULARY = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


class _Token:
    """`tokenizer.mask_token`; a known token or None can be assigned."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: SpecialTokens, kind: type | None = None) -> str | None:
        return owner._special[self.name]

    def __set__(self, owner: SpecialTokens, token: str | AddedToken | None) -> None:
        if token is None:
            owner._special[self.name] = None
        else:
            known = token.content if isinstance(token, AddedToken) else token
            if not isinstance(known, str) or owner._lexicon.token_to_id(known) is None:
                raise TokenizerError(f"{self.name} can't be {known!r}: unknown; use add_special_tokens")
            owner.add_special_tokens({self.name: token})


class _TokenId:
    """`tokenizer.mask_token_id`, None if there is no such token; the id of a known token or None can be assigned."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, owner: SpecialTokens, kind: type | None = None) -> int | None:
        token = owner._special[self.name]
        return None if token is None else owner._lexicon.token_to_id(token)

    def __set__(self, owner: SpecialTokens, code: int | None) -> None:
        token = None if code is None else owner._token_of_id(f"{self.name}_id", code)
        setattr(owner, self.name, token)


class SpecialTokens(ABC):
    """The part of a tokenizer that knows its special tokens."""

    _lexicon: Lexicon
    _special: dict[str, str | None]
    _extra: list[str]
    model_max_length: int

    bos_token, bos_token_id = _Token(), _TokenId()
    eos_token, eos_token_id = _Token(), _TokenId()
    unk_token, unk_token_id = _Token(), _TokenId()
    sep_token, sep_token_id = _Token(), _TokenId()
    pad_token, pad_token_id = _Token(), _TokenId()
    cls_token, cls_token_id = _Token(), _TokenId()
    mask_token, mask_token_id = _Token(), _TokenId()

    @abstractmethod
    def _set_lexicon(self, lexicon: Lexicon) -> None:
        """Makes a lexicon the tokenizer's."""

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The named special tokens that there are: `{"unk_token": "[UNK]", ...}`."""
        return {name: token for name in SPECIAL_TOKENS if (token := self._special[name]) is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens without a name; a list of known tokens can be assigned."""
        return list(self._extra)

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        if not isinstance(tokens, (list, tuple, type(None))):
            raise TokenizerError(f"extra_special_tokens is {tokens!r}; expected a list of tokens")
        for token in tokens or ():
            if self._lexicon.token_to_id(str(token)) is None:
                raise TokenizerError(
                    f"extra_special_tokens can't hold {str(token)!r}: unknown; use add_special_tokens"
                )
        self.add_special_tokens({"extra_special_tokens": list(tokens or ())})

    @property
    def extra_special_tokens_ids(self) -> list[int | None]:
        """The ids of `extra_special_tokens`; a list of the ids of known tokens can be assigned."""
        return [self._lexicon.token_to_id(token) for token in self._extra]

    @extra_special_tokens_ids.setter
    def extra_special_tokens_ids(self, ids: Sequence[int] | None) -> None:
        self.extra_special_tokens = [
            self._token_of_id("extra_special_tokens_ids", code) for code in ids or ()
        ]

    additional_special_tokens = extra_special_tokens  # the names of transformers 4
    additional_special_tokens_ids = extra_special_tokens_ids

    @property
    def pad_token_type_id(self) -> int:
        """The `token_type_ids` of padding."""
        return 0

    @property
    def all_special_tokens(self) -> list[str]:
        """Named and extra special tokens, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        ids = (self._lexicon.token_to_id(token) for token in self.all_special_tokens)
        return [code for code in ids if code is not None]

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Names special tokens (`{"pad_token": "[PAD]", "extra_special_tokens": [...]}`), adds new ones.

        Returns how many weren't added just so before. Then: `model.resize_token_embeddings(len(tokenizer))`.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise TokenizerError(f"special_tokens_dict is {special_tokens_dict!r}; expected a dict")
        named, made = dict(self._special), []
        extra = list(self._extra)
        for name, value in special_tokens_dict.items():
            if name in SPECIAL_TOKENS:
                made.append(make_added_token(value, special=True))
                named[name] = made[-1].content
            elif name in ("extra_special_tokens", "additional_special_tokens"):
                if not isinstance(value, (list, tuple)):
                    raise TokenizerError(f"{name} is {value!r}; expected a list of tokens")
                tokens = [make_added_token(token, special=True) for token in value]
                extra = [] if replace_extra_special_tokens else extra
                extra = list(dict.fromkeys([*extra, *(token.content for token in tokens)]))
                made.extend(tokens)
            else:
                raise TokenizerError(f"{name!r} isn't a special token; expected {one_of(SPECIAL_TOKENS)}")
        lexicon, changed = self._lexicon.with_tokens(made)
        before = self._special, self._extra
        self._special, self._extra = named, extra
        try:
            self._set_lexicon(lexicon)
        except TokenizerError:
            self._special, self._extra = before
            raise
        return changed

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """2 for a single text, 3 for a pair."""
        return special_token_count(2 if pair else 1)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of a single text fit into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair fit into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """`[CLS] A [SEP]`, or `[CLS] A [SEP] B [SEP]`, from ids without special tokens."""
        (cls, _), (sep, _) = self._required("cls_token"), self._required("sep_token")
        return [cls, *token_ids_0, sep, *([] if token_ids_1 is None else [*token_ids_1, sep])]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """The `token_type_ids` of such a row: 0 for `[CLS] A [SEP]`, 1 for `B [SEP]`."""
        return [0] * (len(token_ids_0) + 2) + ([] if token_ids_1 is None else [1] * (len(token_ids_1) + 1))

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens in what `build_inputs_with_special_tokens` gives, 0 for the others.

        already_has_special_tokens: the ids are such a row already; a `[MASK]` in the text counts as special
            too.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise TokenizerError(
                    "token_ids_1 was given though the ids already have special tokens; expected None"
                )
            special = set(self.all_special_ids)
            return [int(int(code) in special) for code in token_ids_0]
        second = [] if token_ids_1 is None else [*([0] * len(token_ids_1)), 1]
        return [1, *([0] * len(token_ids_0)), 1, *second]

    def _register_special_tokens(
        self, lexicon: Lexicon, named: Mapping[str, str | AddedToken | None], extra: Any
    ) -> Lexicon:
        """Names the special tokens; the lexicon in which they are added tokens."""
        if not isinstance(extra, (list, tuple)):
            raise TokenizerError(f"extra_special_tokens is {extra!r}; expected a list of tokens")
        made = {
            name: make_added_token(token, special=True) for name, token in named.items() if token is not None
        }
        for name, token in made.items():
            needed = name == "unk_token" or token.content == _IN_VOCABULARY.get(name)
            if needed and lexicon.token_to_id(token.content) is None:
                raise TokenizerError(f"the vocabulary has no {token.content!r} ({name})")
        extra_made = [make_added_token(token, special=True) for token in extra]
        self._special = {name: made[name].content if name in made else None for name in SPECIAL_TOKENS}
        self._extra = list(dict.fromkeys(token.content for token in extra_made))
        # An added token keeps its flags, unless it is given with flags of its own.
        given = [*named.values(), *extra]
        added = {token.content for token in lexicon.added.values() if token.special}
        new = [
            token
            for token in (*made.values(), *extra_made)
            if token.content not in added
            or any(isinstance(t, AddedToken) and t.content == token.content for t in given)
        ]
        return lexicon.with_tokens(new)[0]

    def _token_of_id(self, name: str, code: Any) -> str:
        token = self._lexicon.content_of(as_index(name, code, minimum=0))
        if token is None:
            raise TokenizerError(
                f"{name} can't be {code}: the vocabulary has no such id; expected less than {len(self._lexicon)}"
            )
        return token

    def _token(self, name: str) -> str:
        token = self._special[name]
        if token is None:
            raise TokenizerError(
                f"this tokenizer has no {name}, which is needed here; name one by add_special_tokens"
            )
        return token

    def _required(self, name: str) -> tuple[int, str]:
        """Id and token of a special token; raises `TokenizerError` if there is none."""
        token = self._token(name)
        code = self._lexicon.token_to_id(token)
        if code is None:
            raise TokenizerError(f"the vocabulary has no {token!r} ({name})")
        return code, token
