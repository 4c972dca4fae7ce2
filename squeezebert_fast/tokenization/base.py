"""What both tokenizers share: everything but cutting a text into tokens."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.loading.hub import ModelFiles
from squeezebert_fast.tokenization import files
from squeezebert_fast.tokenization.arguments import (
    UNLIMITED,
    Layout,
    Sample,
    Text,
    as_index,
    check_choice,
    check_text,
    read_layout,
    read_samples,
)
from squeezebert_fast.tokenization.batch_encoding import BatchEncoding
from squeezebert_fast.tokenization.decoding import Decoder
from squeezebert_fast.tokenization.lexicon import Lexicon, make_added_token
from squeezebert_fast.tokenization.never_split import NeverSplit
from squeezebert_fast.tokenization.padding import pad_encoded
from squeezebert_fast.tokenization.rows import build_rows
from squeezebert_fast.tokenization.sequences import Row, Template, TokenSequence
from squeezebert_fast.tokenization.special_tokens import SpecialTokens
from squeezebert_fast.tokenization.tensors import check_tensor_type
from squeezebert_fast.tokenization.text import TextNormalizer
from squeezebert_fast.tokenization.vocab_file import read_vocab
from squeezebert_fast.tokenization.writing import write_directory, write_vocab

Self = TypeVar("Self", bound="TokenizerBase")
Engine = Callable[[Sequence[Text], bool], Sequence[TokenSequence]]

_CHANGEABLE_OPTIONS = ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces")


class TokenizerBase(SpecialTokens, ABC):
    """A BERT tokenizer: `[CLS] text [SEP]`, or `[CLS] text [SEP] second text [SEP]` for a pair.

    vocab: the path of a vocab.txt, or a dict from token to id, see `read_vocab`. It must hold the unknown,
        separator, padding, classification and mask token; `pad_token` and `mask_token` may be None instead.
    do_lower_case, strip_accents, tokenize_chinese_chars: as in BERT; `strip_accents=None` follows
        `do_lower_case`.
    never_split: words that are kept as they are where they stand between whitespace, see `NeverSplit`.
    extra_special_tokens: further special tokens, added to the vocabulary if they aren't in it.
    added_tokens: further tokens that are found in a text before it is cut into words.
    split_special_tokens: treat special tokens that occur in a text as ordinary text.
    model_max_length: where `truncation` and `padding="max_length"` get their length from by default.

    Results are those of transformers 5's `SqueezeBertTokenizer`, with these differences: a changed
    `cls_token` or `sep_token` is used at once, a `max_length` too small for the special tokens is an error
    instead of ignored, `never_split` works, and every failure is a `TokenizerError`.
    """

    is_fast: bool

    def __init__(
        self,
        vocab: Mapping[str, int] | str | os.PathLike[str],
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        never_split: Sequence[str] | None = None,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken | None = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken | None = "[MASK]",
        bos_token: str | AddedToken | None = None,
        eos_token: str | AddedToken | None = None,
        extra_special_tokens: Sequence[str | AddedToken] = (),
        added_tokens: Sequence[AddedToken] = (),
        split_special_tokens: bool = False,
        model_max_length: int = UNLIMITED,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask"),
    ) -> None:
        self._fixed: dict[str, bool | None] = {
            "do_lower_case": do_lower_case,
            "strip_accents": strip_accents,
            "tokenize_chinese_chars": tokenize_chinese_chars,
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
        self.model_max_length = as_index("model_max_length", _whole(model_max_length), minimum=0)
        self.padding_side, self.truncation_side = padding_side, truncation_side
        for name in ("padding_side", "truncation_side"):
            check_choice(name, getattr(self, name), ("left", "right"))
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.name_or_path = ""
        named = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        normalize = TextNormalizer(
            lower_case=do_lower_case,
            strip_accents=do_lower_case if strip_accents is None else strip_accents,
            split_cjk=tokenize_chinese_chars,
        )
        made = [make_added_token(token, special=_special(token)) for token in added_tokens]
        lexicon, _ = Lexicon(read_vocab(vocab), normalize).with_tokens(made)
        self._set_lexicon(self._register_special_tokens(lexicon, named, extra_special_tokens))

    # Construction, files

    @classmethod
    def from_pretrained(
        cls: type[Self],
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str | None = None,
        **overrides: Any,
    ) -> Self:
        """The tokenizer of a directory or hub repository that transformers or `save_pretrained` wrote.

        overrides: constructor arguments that replace what the files say.
        Raises `TokenizerError` for missing or malformed files and unknown overrides.
        """
        model = ModelFiles(name_or_path, revision, cache_dir, local_files_only, token, subfolder)
        arguments = files.read_directory(model)
        known = set(TokenizerBase.__init__.__annotations__) - {"return"}
        unknown = set(overrides) - (known - {"vocab"})
        if unknown:
            raise TokenizerError(
                f"from_pretrained got {sorted(unknown)[0]!r}; expected one of {sorted(known)}"
            )
        arguments = {name: value for name, value in arguments.items() if name in known}
        tokenizer = cls(**{**arguments, **overrides})
        tokenizer.name_or_path = os.fspath(name_or_path)
        return tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes a directory that `from_pretrained` reads, in transformers too; returns its files."""
        config = {"tokenizer_class": "SqueezeBertTokenizer", **self._options()}
        config["additional_special_tokens"] = self.extra_special_tokens
        return write_directory(save_directory, self._lexicon, config, self._token("unk_token"), prefix="")

    def with_vocab(self: Self, vocab: Mapping[str, int]) -> Self:
        """A tokenizer with the same options and added tokens over another vocabulary, which should hold the latter.

        Raises `TokenizerError` as the constructor does.
        """
        added = tuple(self.added_tokens_decoder.values())
        extra = self.extra_special_tokens
        return type(self)(vocab, added_tokens=added, extra_special_tokens=extra, **self._options())

    def _options(self) -> dict[str, Any]:
        """The constructor's arguments but the vocabulary and added tokens."""
        options: dict[str, Any] = {**self._fixed}
        options |= {name: getattr(self, name) for name in _CHANGEABLE_OPTIONS}
        options |= {"never_split": list(self.never_split), "model_input_names": self.model_input_names}
        return options | {"pad_token": None, "mask_token": None, **self.special_tokens_map}

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Writes `vocab.txt` (`prefix-vocab.txt`), without added tokens; returns its path."""
        name = f"{filename_prefix}-{files.VOCAB_FILE}" if filename_prefix else files.VOCAB_FILE
        return write_vocab(Path(save_directory) / name, self._lexicon)

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

    @property
    def split_special_tokens(self) -> bool:
        """Whether special tokens in a text are ordinary text; fixed when the tokenizer is made."""
        return bool(self._fixed["split_special_tokens"])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, special_tokens={self.special_tokens_map})"
        )

    # Vocabulary

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
        made = [make_added_token(token, special=special_tokens or _special(token)) for token in tokens]
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
        ids = _plain(ids)
        if not isinstance(ids, (list, tuple)):
            return self._lexicon.id_to_token(as_index("ids", ids, minimum=0))
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        codes = [as_index(f"ids[{at}]", code, minimum=0) for at, code in enumerate(ids)]
        return [self._lexicon.id_to_token(code) for code in codes if code not in skipped]

    # Encoding

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Model inputs for one text or a batch.

        text: a str; a list of str, or of pairs of str; with `is_split_into_words` a list of words, or a list
            of those.
        text_pair: the second text, or as many second texts as `text` has.
        padding: True or `longest` (in the batch), `max_length`, False or `do_not_pad`.
        truncation: True or `longest_first`, `only_first`, `only_second`, False or `do_not_truncate`; None
            truncates if `max_length` is given without padding.
        max_length: by default `model_max_length`; no limit where that isn't set either.
        stride, return_overflowing_tokens: also return what was cut off as further rows that overlap by
            `stride` tokens, with `overflow_to_sample_mapping`.
        return_tensors: `pt` or `np` for int64 [rows, length]; else lists, one level less for a single text.
        return_offsets_mapping: `SqueezeBertTokenizerFast` only.

        Raises `TokenizerError` for every bad argument.

        >>> tokenizer("Hello", "world", padding="max_length", max_length=8)  # doctest: +SKIP
        """
        check_tensor_type(return_tensors)
        layout = read_layout(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=self.padding_side if padding_side is None else padding_side,
            truncation_side=self.truncation_side,
            model_max_length=self.model_max_length,
        )
        if return_offsets_mapping and not self.is_fast:
            raise TokenizerError("SqueezeBertTokenizer has no offsets; SqueezeBertTokenizerFast has")
        samples, batched = read_samples(text, text_pair, is_split_into_words=is_split_into_words)
        rows, origins = build_rows(
            samples,
            self._encode_texts(samples, is_split_into_words),
            self._template(layout),
            layout,
            bare=not add_special_tokens,
            overflow=return_overflowing_tokens,
        )
        by_default = self.model_input_names
        fields: list[tuple[str, bool | None, Callable[[Row], Any]]] = [
            ("input_ids", True, lambda row: row.ids),
            ("token_type_ids", return_token_type_ids, lambda row: row.type_ids),
            ("attention_mask", return_attention_mask, lambda row: row.attention_mask),
            ("special_tokens_mask", return_special_tokens_mask, lambda row: row.special_tokens_mask),
            ("offset_mapping", return_offsets_mapping, lambda row: row.offsets),
            ("length", return_length, len),
        ]
        data: dict[str, Any] = {
            name: [value(row) for row in rows]
            for name, wanted, value in fields
            if (name in by_default if wanted is None else wanted)
        }
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = origins
        if not batched and not return_overflowing_tokens and return_tensors is None:
            data = {name: value if name == "length" else value[0] for name, value in data.items()}
        return BatchEncoding(data, rows).convert_to_tensors(return_tensors)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The `input_ids` that calling the tokenizer gives."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(
        self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text (and a second one) as strings."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pads what the tokenizer gave without padding: a dict of lists, or a list of dicts.

        Pads `input_ids`, `token_type_ids`, `attention_mask` and `special_tokens_mask`; other keys stay as
        they are.
        """
        layout = read_layout(
            padding=padding,
            truncation=False,
            max_length=max_length,
            stride=0,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=self.padding_side if padding_side is None else padding_side,
            truncation_side=self.truncation_side,
            model_max_length=self.model_max_length,
        )
        with_mask = return_attention_mask
        if with_mask is None:
            with_mask = "attention_mask" in self.model_input_names
        pad_id = self._template(layout).pad
        return pad_encoded(encoded_inputs, layout, pad_id[0] if pad_id else 0, with_mask, return_tensors)

    def _encode_texts(self, samples: Sequence[Sample], is_split: bool) -> Sequence[TokenSequence]:
        texts = [text for sample in samples for text in sample if text is not None]
        engine = self._engine
        return self._kept.encode(texts, is_split, engine) if self._kept else engine(texts, is_split)

    def _template(self, layout: Layout) -> Template:
        pad = self._required("pad_token") if layout.padding != "do_not_pad" else None
        return Template(self._required("cls_token"), self._required("sep_token"), pad)

    # Decoding

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text of ids: a str for an id, a list or a 1-D tensor, a list of str for a batch of them."""
        ids = _plain(token_ids)
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
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Tokens joined to a text: pieces of words to words, and no space before punctuation."""
        return Decoder(self._lexicon).join(tokens)


def _special(token: str | AddedToken) -> bool:
    return isinstance(token, AddedToken) and token.special


def _whole(value: Any) -> Any:
    # tokenizer_config.json may hold 1e30, a float.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(ids: Any) -> Any:
    """A tensor or array as nested lists, a range or iterator as a list; everything else as it is."""
    if isinstance(ids, Mapping):
        ids = ids["input_ids"]
    if isinstance(ids, (range, Iterator)):
        return list(ids)
    return ids.tolist() if hasattr(ids, "tolist") else ids


def _words(name: str, words: Any) -> tuple[str, ...]:
    if not isinstance(words, (list, tuple, set, frozenset)):
        raise TokenizerError(f"{name} is {words!r}; expected a list of str")
    for word in words:
        if not check_text(name, word):
            raise TokenizerError(f"{name} holds an empty word")
    return tuple(words)
