"""The part of a tokenizer that makes model inputs of texts: calling it, padding, and the older names of both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import (
    UNLIMITED,
    Layout,
    Sample,
    Text,
    as_index,
    read_layout,
    read_samples,
)
from squeezebert_fast.tokenization.batch_encoding import BatchEncoding
from squeezebert_fast.tokenization.never_split import NeverSplit
from squeezebert_fast.tokenization.padding import pad_encoded
from squeezebert_fast.tokenization.pretrained import PretrainedTokenizer
from squeezebert_fast.tokenization.rows import build_rows
from squeezebert_fast.tokenization.sequences import PlainSequence, Row, Template, TokenSequence
from squeezebert_fast.tokenization.tensors import check_tensor_type
from squeezebert_fast.tokenization.vocabulary import plain

Engine = Callable[[Sequence[Text], bool], Sequence[TokenSequence]]

logger = logging.getLogger("squeezebert_fast.tokenization")

_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"  # transformers' name, for who silences it


class EncodingTokenizer(PretrainedTokenizer):
    """A tokenizer that texts and ids can be given to."""

    is_fast: bool
    model_input_names: list[str]
    padding_side: str
    truncation_side: str
    deprecation_warnings: dict[str, bool]
    _fixed: dict[str, bool | None]
    _engine: Engine
    _kept: NeverSplit | None

    @property
    def split_special_tokens(self) -> bool:
        """Whether special tokens in a text are ordinary text; fixed when the tokenizer is made."""
        return bool(self._fixed["split_special_tokens"])

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
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
        verbose: bool = True,
        *,
        max_target_length: int | None = None,
        split_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """Model inputs for one text or a batch.

        text: a str; a list of str, or of pairs of str; with `is_split_into_words` a list of words, or a list
            of those.
        text_pair: the second text, or as many second texts as `text` has.
        text_target, text_pair_target: texts whose ids become `labels`, of at most `max_target_length` tokens (by
            default `max_length`); without `text` all that is returned is theirs.
        padding: True or `longest` (in the batch), `max_length`, False or `do_not_pad`.
        truncation: True or `longest_first`, `only_first`, `only_second`, False or `do_not_truncate`; None
            truncates if `max_length` is given without padding.
        max_length: by default `model_max_length`; no limit where that isn't set either.
        stride, return_overflowing_tokens: also return what was cut off as further rows that overlap by
            `stride` tokens, with `overflow_to_sample_mapping`.
        return_tensors: `pt` or `np` for int64 [rows, length]; else lists, one level less for a single text.
        return_offsets_mapping: `SqueezeBertTokenizerFast` only.
        verbose: False for no warning of a row longer than `model_max_length`.
        split_special_tokens: as the tokenizer was made, or None.

        Raises `TokenizerError` for every bad argument.

        >>> tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
        >>> tokenizer("Lovely", "film", padding="max_length", max_length=8)["attention_mask"]
        [1, 1, 1, 1, 1, 0, 0, 0]
        """
        check_tensor_type(return_tensors)
        if return_offsets_mapping and not self.is_fast:
            raise TokenizerError("SqueezeBertTokenizer has no offsets; SqueezeBertTokenizerFast has")
        if split_special_tokens not in (None, self.split_special_tokens):
            raise TokenizerError(
                f"split_special_tokens is {split_special_tokens!r}; expected {self.split_special_tokens}, "
                "as the tokenizer was made"
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

        def encoded(first: Any, second: Any, longest: int | None) -> BatchEncoding:
            layout = self._layout(
                padding=padding,
                truncation=truncation,
                max_length=longest,
                stride=stride,
                pad_to_multiple_of=pad_to_multiple_of,
                padding_side=padding_side,
            )
            samples, batched = read_samples(first, second, is_split_into_words=is_split_into_words)
            rows, origins = build_rows(
                samples,
                self._encode_texts(samples, is_split_into_words),
                self._template(layout),
                layout,
                bare=not add_special_tokens,
                overflow=return_overflowing_tokens,
            )
            self._warn_if_too_long(rows, layout.max_length, verbose)
            data: dict[str, Any] = {
                name: [value(row) for row in rows]
                for name, wanted, value in fields
                if (name in by_default if wanted is None else wanted)
            }
            if return_overflowing_tokens:
                data["overflow_to_sample_mapping"] = origins
            if not batched and not return_overflowing_tokens and return_tensors is None:
                data = {name: value if name == "length" else value[0] for name, value in data.items()}
            return BatchEncoding(data, rows, is_fast=self.is_fast).convert_to_tensors(return_tensors)

        if text is None and text_target is not None:
            return encoded(text_target, text_pair_target, max_target_length or max_length)
        batch = encoded(text, text_pair, max_length)
        if text_target is not None:
            targets = encoded(text_target, text_pair_target, max_target_length or max_length)
            batch["labels"] = targets["input_ids"]
        return batch

    def encode(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> Any:
        """The `input_ids` that calling the tokenizer gives."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Calls the tokenizer for one text; a list is of its words. transformers 4 has it."""
        if isinstance(text, (list, tuple)) and not options.get("is_split_into_words"):
            raise TokenizerError("encode_plus got a list; expected one text, or is_split_into_words=True")
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """Calls the tokenizer for a list of texts or pairs. transformers 4 has it."""
        if not isinstance(batch_text_or_text_pairs, (list, tuple)):
            raise TokenizerError(
                f"batch_encode_plus got a {type(batch_text_or_text_pairs).__name__}; expected a list of texts"
            )
        return self(batch_text_or_text_pairs, **options)

    def tokenize(
        self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text (and a second one) as strings."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def prepare_for_model(
        self,
        ids: Sequence[int],
        pair_ids: Sequence[int] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """Model inputs from the ids of one text, or two, without special tokens: what calling with the texts gives.

        The arguments are those of calling, see there, but `return_overflowing_tokens`: it gives the ids cut off,
        with `stride` ids before them, as `overflowing_tokens`, and their number as `num_truncated_tokens`.
        prepend_batch_axis: tensors of [1, length] instead of [length].
        Raises `TokenizerError` for every bad argument.
        """
        layout = self._layout(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=0,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
        )
        stride = as_index("stride", stride, minimum=0)
        sequences = [self._sequence(ids), *([] if pair_ids is None else [self._sequence(pair_ids)])]
        if return_overflowing_tokens and len(sequences) == 2 and layout.truncation == "longest_first":
            raise TokenizerError(
                "return_overflowing_tokens of a pair needs truncation='only_first' or 'only_second'"
            )
        samples: list[Sample] = [("", None if pair_ids is None else "")]
        (row,), _ = build_rows(
            samples,
            sequences,
            self._template(layout),
            layout,
            bare=not add_special_tokens,
            overflow=False,
        )
        self._warn_if_too_long([row], layout.max_length, verbose)
        fields = [
            ("input_ids", True, row.ids),
            ("token_type_ids", return_token_type_ids, row.type_ids),
            ("attention_mask", return_attention_mask, row.attention_mask),
            ("special_tokens_mask", return_special_tokens_mask, row.special_tokens_mask),
            ("length", return_length, len(row)),
        ]
        data: dict[str, Any] = {
            name: value
            for name, wanted, value in fields
            if (name in self.model_input_names if wanted is None else wanted)
        }
        cut = row.cut_off(stride)
        if return_overflowing_tokens and return_tensors is None and cut:
            data["overflowing_tokens"] = cut
            data["num_truncated_tokens"] = sum(len(part.ids) - (b - a) for part, (a, b) in row.parts)
        return BatchEncoding(data).convert_to_tensors(return_tensors, prepend_batch_axis)

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads what the tokenizer gave without padding: a dict of lists, or a list of dicts.

        Pads `input_ids`, `token_type_ids`, `attention_mask` and `special_tokens_mask`; other keys keep their
        values and dtype, see `pad_encoded`. verbose does nothing: there is nothing to warn of.
        """
        layout = self._layout(
            padding=padding,
            truncation=False,
            max_length=max_length,
            stride=0,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
        )
        with_mask = return_attention_mask
        if with_mask is None:
            with_mask = "attention_mask" in self.model_input_names
        pad_id = self._template(layout).pad
        return pad_encoded(encoded_inputs, layout, pad_id[0] if pad_id else 0, with_mask, return_tensors)

    def _layout(self, *, padding_side: str | None, **options: Any) -> Layout:
        return read_layout(
            padding_side=self.padding_side if padding_side is None else padding_side,
            truncation_side=self.truncation_side,
            model_max_length=self.model_max_length,
            **options,
        )

    def _sequence(self, ids: Sequence[int]) -> PlainSequence:
        codes = [as_index("an id", code, minimum=0) for code in plain(ids)]
        return PlainSequence(codes, [self._lexicon.id_to_token(code) or "" for code in codes])

    def _warn_if_too_long(self, rows: Sequence[Row], max_length: int | None, verbose: bool) -> None:
        limit = self.model_max_length
        if max_length is not None or not limit or not verbose or self.deprecation_warnings.get(_TOO_LONG):
            return
        longest = max(map(len, rows)) if limit < UNLIMITED else 0
        if longest > limit:
            self.deprecation_warnings[_TOO_LONG] = True
            logger.warning(
                "a row of %d tokens is longer than the model's %d (model_max_length): the model will refuse it; "
                "see truncation",
                longest,
                limit,
            )

    def _encode_texts(self, samples: Sequence[Sample], is_split: bool) -> Sequence[TokenSequence]:
        texts = [text for sample in samples for text in sample if text is not None]
        engine = self._engine
        return self._kept.encode(texts, is_split, engine) if self._kept else engine(texts, is_split)

    def _template(self, layout: Layout) -> Template:
        pad = self._required("pad_token") if layout.padding != "do_not_pad" else None
        return Template(self._required("cls_token"), self._required("sep_token"), pad)
