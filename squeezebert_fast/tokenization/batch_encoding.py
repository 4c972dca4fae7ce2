"""What a tokenizer returns: a dictionary of model inputs that remembers the text behind its tokens."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.sequences import Row
from squeezebert_fast.tokenization.tensors import as_tensor, check_tensor_type


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive) of a row."""

    start: int
    end: int


class BatchEncoding(UserDict):
    """`input_ids`, `attention_mask`, ... as keys and as attributes; `model(**encoding)` works.

    `encoding["input_ids"]` is a value, `encoding[0]` the `Row` of the first text, `encoding[1:3]` a dict of
    slices. The methods below lead from tokens to characters and words of the texts and back; rows count from
    0, and where the batch is of one row, its index may be left out (`char_to_token(5)` for `char_to_token(0,
    5)`). Those about characters and words need `SqueezeBertTokenizerFast`, others raise `TokenizerError`.

    data: lists, or with `return_tensors` tensors or arrays of int64 [batch, length].
    encoding: the rows that it was made of; tensor_type, prepend_batch_axis: see `convert_to_tensors`.
    is_fast: whether the rows know their characters and words.
    Source: transformers' `BatchEncoding`.

    >>> encoding = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)("A lovely film!")
    >>> encoding.tokens()
    ['[CLS]', 'a', 'lovely', 'film', '!', '[SEP]']
    >>> encoding.char_to_token(2)
    2
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Sequence[Row] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        *,
        is_fast: bool = False,
    ) -> None:
        super().__init__(data)
        self.rows = encoding
        self.is_fast = is_fast
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        return self._row(key)

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})  # absent while unpickling
        if name in data:
            return data[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or key {name!r}")

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> BatchEncoding:
        """Moves every tensor to `device`, in place; returns self."""
        self.data = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
            for name, value in self.data.items()
        }
        return self

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Makes every value a tensor (`pt`) or array (`np`), in place, see `as_tensor`; returns self.

        prepend_batch_axis: of one row, which becomes a batch.
        Raises `TokenizerError` if the rows are of different lengths.
        """
        check_tensor_type(tensor_type)
        if tensor_type is not None:
            for name, value in self.data.items():
                self.data[name] = as_tensor(name, [value] if prepend_batch_axis else value, tensor_type)
        return self

    @property
    def encodings(self) -> Sequence[Row] | None:
        """The rows; None if the batch was made from ids instead of text."""
        return self.rows

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs; None if the batch was made from ids."""
        return len(self.rows[0].parts) if self.rows else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as strings."""
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 or 1, the text it came from; None for special tokens and padding."""
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the index of its word in its text; None for special tokens and padding."""
        return self._row(batch_index).word_ids

    def words(self, batch_index: int = 0) -> list[int | None]:
        """`word_ids` by the name that it had in transformers 4."""
        return self.word_ids(batch_index)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text, 0 or 1, that a token came from; None for special tokens and padding."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.sequence_ids[token]

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token came from; None for special tokens and padding."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.word_ids[token]

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token came from; None for special tokens and padding."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return None if row.sequence_ids[token] is None else CharSpan(*row.offsets[token])

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; None if the row has none of them."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        words = zip(row.sequence_ids, row.word_ids, strict=True)
        tokens = [at for at, place in enumerate(words) if place == (sequence_index, word)]
        return TokenSpan(tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; None if the row has none of its tokens."""
        tokens = self.word_to_tokens(batch_or_word_index, word_index, sequence_index)
        if tokens is None:
            return None
        row, _ = self._row_and_index(batch_or_word_index, word_index)
        return CharSpan(row.offsets[tokens.start][0], row.offsets[tokens.end - 1][1])

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The first token that came from a character; None for whitespace and what was cut off."""
        row, char = self._row_and_index(batch_or_char_index, char_index)
        spans = zip(row.sequence_ids, row.offsets, strict=True)
        places = (
            at
            for at, (index, (start, end)) in enumerate(spans)
            if index == sequence_index and start <= char < end
        )
        return next(places, None)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word of a character; None for whitespace and characters that were cut off."""
        token = self.char_to_token(batch_or_char_index, char_index, sequence_index)
        row, _ = self._row_and_index(batch_or_char_index, char_index)
        return None if token is None else row.word_ids[token]

    def _row(self, index: int) -> Row:
        if self.rows is None:
            raise TokenizerError("this batch was made from ids: it doesn't know the tokens of a text")
        try:
            return self.rows[index]
        except (IndexError, TypeError) as error:
            raise TokenizerError(
                f"row {index!r} of a batch of {len(self.rows)}; expected an index in range"
            ) from error

    def _row_and_index(self, batch_or_index: int, index: int | None) -> tuple[Row, int]:
        row = self._row(0 if index is None else batch_or_index)
        index = batch_or_index if index is None else index
        if not index >= 0:
            raise TokenizerError(f"the index is {index}; expected at least 0")
        return row, index
