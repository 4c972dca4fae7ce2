"""What both tokenizers share: everything but cutting a text into tokens."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import files
from squeezebert_fast.tokenization.arguments import (
    UNLIMITED,
    as_index,
    check_choice,
    check_text,
    check_unknown,
)
from squeezebert_fast.tokenization.encoding import EncodingTokenizer, Engine
from squeezebert_fast.tokenization.lexicon import Lexicon, make_added_token
from squeezebert_fast.tokenization.never_split import NeverSplit
from squeezebert_fast.tokenization.text import TextNormalizer
from squeezebert_fast.tokenization.vocab_file import read_vocab
from squeezebert_fast.tokenization.vocabulary import is_special

_DEFAULTS = {
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "padding_side": "right",
    "truncation_side": "right",
}
_CHANGEABLE_OPTIONS = ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces")


class TokenizerBase(EncodingTokenizer):
    """A BERT tokenizer: `[CLS] text [SEP]`, or `[CLS] text [SEP] second text [SEP]` for a pair.

    vocab: the path of a vocab.txt, or a dict from token to id, see `read_vocab`. It must hold the unknown,
        separator, padding, classification and mask token; `pad_token` and `mask_token` may be None instead.
    vocab_file, tokenizer_file: a vocab.txt or a tokenizer.json instead, whose options (and added tokens) hold
        where the arguments are None. Of the two tokenizer_file counts, as in transformers.
    do_lower_case, strip_accents, tokenize_chinese_chars: as in BERT; `strip_accents=None` follows
        `do_lower_case`. By default True, None and True.
    never_split: words that are kept as they are where they stand between whitespace, see `NeverSplit`.
    unk_token, sep_token, ...: other special tokens are added to the vocabulary if they aren't in it, except the
        unknown token.
    extra_special_tokens: further special tokens, added to the vocabulary if they aren't in it; transformers 4's
        additional_special_tokens is the same.
    added_tokens: further tokens that are found in a text before it is cut into words.
    split_special_tokens: treat special tokens that occur in a text as ordinary text.
    model_max_length: where `truncation` and `padding="max_length"` get their length from by default; a longer
        row that isn't truncated is warned of, once.
    verbose: does nothing, as there is nothing to log.
    init_kwargs: unknown arguments are kept in `init_kwargs` and saved, as in transformers.

    Results are those of transformers 5's `SqueezeBertTokenizer`, with these differences: a changed
    `cls_token` or `sep_token` is used at once, a `max_length` too small for the special tokens is an error
    instead of ignored, `never_split` works, `len` covers every id where a vocabulary leaves some unused, and
    every failure is a `TokenizerError`.
    """

    def __init__(
        self,
        vocab: Mapping[str, int] | str | os.PathLike[str] | None = None,
        *,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        do_lower_case: bool | None = None,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool | None = None,
        never_split: Sequence[str] | None = None,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken | None = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken | None = "[MASK]",
        bos_token: str | AddedToken | None = None,
        eos_token: str | AddedToken | None = None,
        extra_special_tokens: Sequence[str | AddedToken] | None = None,
        additional_special_tokens: Sequence[str | AddedToken] | None = None,
        added_tokens: Sequence[AddedToken] = (),
        split_special_tokens: bool = False,
        model_max_length: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        clean_up_tokenization_spaces: bool = False,
        model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask"),
        verbose: bool = True,
        **init_kwargs: Any,
    ) -> None:
        source = _source(vocab, vocab_file, tokenizer_file)
        options = {
            "do_lower_case": do_lower_case,
            "strip_accents": strip_accents,
            "tokenize_chinese_chars": tokenize_chinese_chars,
            "padding_side": padding_side,
            "truncation_side": truncation_side,
        }
        given = {name: value for name, value in options.items() if value is not None}
        chosen = _DEFAULTS | {name: source[name] for name in options.keys() & source.keys()} | given
        self._fixed: dict[str, bool | None] = {
            "do_lower_case": chosen["do_lower_case"],
            "strip_accents": chosen["strip_accents"],
            "tokenize_chinese_chars": chosen["tokenize_chinese_chars"],
            "split_special_tokens": split_special_tokens,
        }
        for name, value in {
            **self._fixed,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }.items():
            if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
                raise TokenizerError(f"{name} is {value!r}; expected True or False")
        self._never_split = _words("never_split", never_split or ())
        self.model_input_names = list(_words("model_input_names", model_input_names))
        longest = UNLIMITED if model_max_length is None else _whole(model_max_length)
        self.model_max_length = as_index("model_max_length", longest, minimum=0)
        self.padding_side, self.truncation_side = chosen["padding_side"], chosen["truncation_side"]
        for name in ("padding_side", "truncation_side"):
            check_choice(name, getattr(self, name), ("left", "right"))
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.verbose = verbose
        self.name_or_path = ""
        self.init_kwargs = check_unknown(init_kwargs)
        self.deprecation_warnings: dict[str, bool] = {}
        named = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        extra = additional_special_tokens if extra_special_tokens is None else extra_special_tokens
        lower_case = bool(chosen["do_lower_case"])
        normalize = TextNormalizer(
            lower_case=lower_case,
            strip_accents=lower_case if chosen["strip_accents"] is None else chosen["strip_accents"],
            split_cjk=chosen["tokenize_chinese_chars"],
        )
        tokens = (*source.get("added_tokens", ()), *added_tokens)
        made = [make_added_token(token, special=is_special(token)) for token in tokens]
        lexicon, _ = Lexicon(read_vocab(source["vocab"]), normalize).with_tokens(made)
        self._set_lexicon(self._register_special_tokens(lexicon, named, () if extra is None else extra))

    @abstractmethod
    def _build_engine(self, lexicon: Lexicon) -> Engine:
        """What cuts texts into tokens, for this vocabulary."""

    def _set_lexicon(self, lexicon: Lexicon) -> None:
        unknown = self._token("unk_token")
        if unknown not in lexicon.vocab:
            raise TokenizerError(f"the vocabulary has no {unknown!r} (unk_token)")
        engine = self._build_engine(lexicon)
        kept = (
            NeverSplit(self.never_split, lexicon, unknown, with_offsets=self.is_fast)
            if self.never_split
            else None
        )
        self._lexicon, self._engine, self._kept = lexicon, engine, kept

    @property
    def do_lower_case(self) -> bool:
        """Whether text is lower-cased; fixed when the tokenizer is made."""
        return bool(self._fixed["do_lower_case"])

    @property
    def strip_accents(self) -> bool | None:
        """Whether accents are stripped, None as `do_lower_case` says; fixed when the tokenizer is made."""
        return self._fixed["strip_accents"]

    @property
    def tokenize_chinese_chars(self) -> bool:
        """Whether each CJK character is a word of its own; fixed when the tokenizer is made."""
        return bool(self._fixed["tokenize_chinese_chars"])

    @property
    def never_split(self) -> tuple[str, ...]:
        """Words that are kept as they are; fixed when the tokenizer is made."""
        return self._never_split

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, special_tokens={self.special_tokens_map})"
        )

    def _options(self) -> dict[str, Any]:
        """The constructor's arguments but the vocabulary and added tokens."""
        options: dict[str, Any] = {**self._fixed}
        options |= {name: getattr(self, name) for name in _CHANGEABLE_OPTIONS}
        options |= {"never_split": list(self.never_split), "model_input_names": self.model_input_names}
        return options | {"pad_token": None, "mask_token": None, **self.special_tokens_map}


def _source(vocab: Any, vocab_file: Any, tokenizer_file: Any) -> dict[str, Any]:
    """Arguments that hold where others aren't given; the vocabulary among them."""
    if vocab is not None and (vocab_file is not None or tokenizer_file is not None):
        raise TokenizerError("vocab is given beside vocab_file or tokenizer_file; expected one of them")
    if tokenizer_file is not None:
        find = files.only(Path(tokenizer_file), files.TOKENIZER_FILE)
        return files.read_directory(find, os.fspath(tokenizer_file))
    return {"vocab": vocab if vocab_file is None else vocab_file}


def _whole(value: Any) -> Any:
    # tokenizer_config.json may hold 1e30, a float.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _words(name: str, words: Any) -> tuple[str, ...]:
    if not isinstance(words, (list, tuple, set, frozenset)):
        raise TokenizerError(f"{name} is {words!r}; expected a list of str")
    for word in words:
        if not check_text(name, word):
            raise TokenizerError(f"{name} holds an empty word")
    return tuple(words)
