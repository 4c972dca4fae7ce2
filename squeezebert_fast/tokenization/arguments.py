"""What callers hand to a tokenizer, checked once: texts, and how to pad and truncate them."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError, check_among

Text = str | Sequence[str]
Sample = tuple[Text, Text | None]

UNLIMITED = int(1e30)
"""`model_max_length` of a tokenizer that wasn't told one, as in transformers."""

_LARGE = int(1e20)  # transformers' bound above which a model_max_length counts as none
_PADDINGS = ("longest", "max_length", "do_not_pad")
_TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
_ONLY = {
    "clean_text": True,
    "do_basic_tokenize": True,
    "wordpieces_prefix": "##",
}  # options of transformers 4
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Layout:
    """How rows are padded and truncated; `max_length` is set where one of the two needs it."""

    padding: str = "do_not_pad"
    truncation: str = "do_not_truncate"
    max_length: int | None = None
    stride: int = 0
    pad_to_multiple_of: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"

    def padded_length(self, longest: int) -> int:
        """The length that rows are padded to if the longest has `longest` tokens."""
        length = self.max_length if self.padding == "max_length" and self.max_length is not None else longest
        multiple = self.pad_to_multiple_of or 1
        return -(-length // multiple) * multiple


def read_layout(
    *,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    padding_side: str,
    truncation_side: str,
    model_max_length: int,
) -> Layout:
    """The layout that the arguments of `__call__` mean, by transformers' rules.

    A `max_length` alone truncates; without one the model's is taken; where that is unlimited too, there is no
    limit.
    """
    if max_length is not None:
        max_length = as_index("max_length", max_length, minimum=0)
    stride = as_index("stride", stride, minimum=0)
    if pad_to_multiple_of is not None:
        pad_to_multiple_of = as_index("pad_to_multiple_of", pad_to_multiple_of, minimum=1)
    for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
        check_choice(name, side, ("left", "right"))
    if max_length is not None and padding is False and truncation is None:
        truncation = "longest_first"
    if truncation is None:
        truncation = False
    chosen_padding = _choose("padding", padding, _PADDINGS, on="longest", off="do_not_pad")
    chosen_truncation = _choose(
        "truncation", truncation, _TRUNCATIONS, on="longest_first", off="do_not_truncate"
    )
    if max_length is None and (chosen_padding == "max_length" or chosen_truncation != "do_not_truncate"):
        if model_max_length <= _LARGE:
            max_length = model_max_length
        else:
            chosen_truncation = "do_not_truncate"
            chosen_padding = "do_not_pad" if chosen_padding == "max_length" else chosen_padding
    if (
        chosen_padding != "do_not_pad"
        and chosen_truncation != "do_not_truncate"
        and max_length is not None
        and max_length % (pad_to_multiple_of or 1)
    ):
        raise TokenizerError(
            f"max_length={max_length} isn't a multiple of "
            f"pad_to_multiple_of={pad_to_multiple_of}: truncated rows would be padded beyond it"
        )
    return Layout(
        chosen_padding,
        chosen_truncation,
        max_length,
        stride,
        pad_to_multiple_of,
        padding_side,
        truncation_side,
    )


def read_samples(text: Any, text_pair: Any, *, is_split_into_words: bool) -> tuple[list[Sample], bool]:
    """The texts as a list of singles and pairs, and whether they came as a batch.

    An empty `text_pair` of a single text counts as none, as in transformers; in a batch it is an empty second
    text.
    """
    if not isinstance(text, (str, list, tuple)):
        raise TokenizerError(f"text is {_kind(text)}; expected a str or a list")
    if is_split_into_words:
        if isinstance(text, str):
            raise TokenizerError("text is a str; is_split_into_words=True expects a list of words")
        batched = bool(text) and isinstance(text[0], (list, tuple))
    else:
        batched = not isinstance(text, str)
    if not batched:
        empty = isinstance(text_pair, (str, list, tuple)) and not text_pair
        pair = None if text_pair is None or empty else _read_text("text_pair", text_pair, is_split_into_words)
        return [(_read_text("text", text, is_split_into_words), pair)], False
    if not text:
        raise TokenizerError("text is an empty batch; expected at least one text")
    if text_pair is None:
        return [_read_item(f"text[{at}]", item, is_split_into_words) for at, item in enumerate(text)], True
    if not isinstance(text_pair, (list, tuple)) or len(text_pair) != len(text):
        found = f"of {len(text_pair)}" if isinstance(text_pair, (list, tuple)) else _kind(text_pair)
        raise TokenizerError(
            f"text is a batch of {len(text)} and text_pair {found}; expected one for each text"
        )
    return [
        (
            _read_text(f"text[{at}]", first, is_split_into_words),
            _read_text(f"text_pair[{at}]", second, is_split_into_words),
        )
        for at, (first, second) in enumerate(zip(text, text_pair, strict=True))
    ], True


def as_index(name: str, value: Any, *, minimum: int) -> int:
    """`value` as an int of at least `minimum`; raises `TokenizerError` that names the argument."""
    try:
        index = operator.index(value)
    except TypeError as error:
        raise TokenizerError(f"{name} is {value!r}; expected an integer") from error
    if isinstance(value, bool) or index < minimum:
        raise TokenizerError(f"{name} is {value!r}; expected an integer of at least {minimum}")
    return index


def check_unknown(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a constructor's unknown arguments; raises `TokenizerError` for those that would change a result."""
    for name, value in arguments.items():
        if name in _ONLY and value != _ONLY[name]:
            raise TokenizerError(f"{name} is {value!r}; expected {_ONLY[name]!r}")
        if name.endswith("_token") and isinstance(value, (str, AddedToken)):
            raise TokenizerError(f"{name} isn't a special token of BERT's; see extra_special_tokens")
    return copy.deepcopy(dict(arguments))


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises `TokenizerError` that names the argument unless `value` is one of `choices`."""
    check_among(name, value, choices, TokenizerError)


def check_text(name: str, text: Any) -> str:
    """`text` if it is a str of valid Unicode; raises `TokenizerError` that names it."""
    if not isinstance(text, str):
        raise TokenizerError(f"{name} is {_kind(text)}; expected a str")
    if not text.isascii() and _SURROGATE.search(text):
        raise TokenizerError(f"{name} holds a lone surrogate; expected valid Unicode")
    return text


def _read_item(name: str, item: Any, is_split_into_words: bool) -> Sample:
    if isinstance(item, (list, tuple)):
        nested = bool(item) and isinstance(item[0], (list, tuple))
        if not is_split_into_words or nested:
            if len(item) != 2:
                raise TokenizerError(f"{name} is a list of {len(item)}; expected a text, or a pair of two")
            first, second = (
                _read_text(f"{name}[{at}]", part, is_split_into_words) for at, part in enumerate(item)
            )
            return first, second
    return _read_text(name, item, is_split_into_words), None


def _read_text(name: str, text: Any, is_split_into_words: bool) -> Text:
    if not is_split_into_words:
        return check_text(name, text)
    if not isinstance(text, (list, tuple)):
        raise TokenizerError(f"{name} is {_kind(text)}; is_split_into_words=True expects a list of words")
    return [check_text(f"{name}[{at}]", word) for at, word in enumerate(text)]


def _choose(name: str, value: Any, choices: tuple[str, ...], *, on: str, off: str) -> str:
    if isinstance(value, bool):
        return on if value else off
    # An enum of transformers compares by its value.
    value = getattr(value, "value", value)
    check_choice(name, value, choices)
    return str(value)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
