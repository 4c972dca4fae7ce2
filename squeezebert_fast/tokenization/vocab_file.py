"""vocab.txt: one token a line, whose id is the line's number from 0."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.text import WHITESPACE_CHARACTERS

logger = logging.getLogger("squeezebert_fast.tokenization")

_MOST_UNUSED_IDS = 1_000_000  # each takes memory; a damaged file may name any id
_LINES_NAMED = 10
_BYTE_ORDER_MARK = "\ufeff"


def read_vocab(vocab: Mapping[str, int] | str | os.PathLike[str]) -> dict[str, int]:
    """A vocabulary from a vocab.txt or a mapping from tokens to ids.

    Blank and double lines load as transformers 5 loads them: of equal lines the last one counts, so that the
    others' ids have no token, and a blank line is the token "", which no text has. One warning names them.
    A byte order mark at the file's start is skipped.
    Raises `TokenizerError` for a file that is missing, unreadable or empty, and for ids that are taken twice.
    """
    if isinstance(vocab, Mapping):
        return _check_mapping(vocab)
    if not isinstance(vocab, (str, os.PathLike)):
        raise TokenizerError(
            f"vocab is {type(vocab).__name__}; expected the path of a vocab.txt or a dict of ids"
        )
    path = Path(vocab)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TokenizerError(f"the vocabulary {path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"the vocabulary {path} isn't UTF-8: byte {error.start} is malformed") from error
    if not content.strip("\r\n"):
        raise TokenizerError(f"the vocabulary {path} is empty; expected one token a line")
    # Not by str.splitlines nor in text mode: U+2028 and U+0085 are tokens of bert-base-chinese.
    tokens = [_token_of(line) for line in content.removesuffix("\n").split("\n")]
    ids = {token: code for code, token in enumerate(tokens)}
    _warn_of_lines(path, tokens, ids)
    return ids


def vocab_lines(vocab: Mapping[str, int], filename: str) -> bytes:
    """The content of a vocab.txt that `read_vocab` gives this vocabulary for.

    Raises `TokenizerError` for a token that no line can hold, for one with a line break in it.
    """
    by_id = {code: token for token, code in vocab.items()}
    first = by_id[min(by_id)]
    for token in vocab:
        if "\n" in token or _token_of(token) != token or (token is first and token[:1] == _BYTE_ORDER_MARK):
            raise TokenizerError(
                f"the token {token!r} can't be a line of {filename}: it holds a line break, ends in whitespace, or "
                "opens the file with a byte order mark"
            )
    lines: list[str] = []
    for code in sorted(by_id):
        # An id without a token gets the next one's line: of equal lines the last one counts.
        lines.extend([by_id[code]] * (code + 1 - len(lines)))
    return "".join(f"{token}\n" for token in lines).encode()


def check_unicode(token: str) -> None:
    """Raises `TokenizerError` for a token that isn't valid Unicode."""
    try:
        token.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the token {token!r} holds a lone surrogate; expected valid Unicode") from error


def _token_of(line: str) -> str:
    """Whitespace at a token's end is dropped, as by the Rust library; a line of whitespace alone is a token."""
    line = line.removesuffix("\r")
    return line.rstrip(WHITESPACE_CHARACTERS) or line


def _warn_of_lines(path: Path, tokens: Sequence[str], ids: Mapping[str, int]) -> None:
    blank = [str(at) for at, token in enumerate(tokens, 1) if not token]
    double = [
        f"line {at} comes again as line {ids[token] + 1}"
        for at, token in enumerate(tokens, 1)
        if token and ids[token] + 1 != at
    ]
    noun, verb = ("lines", "are") if blank[1:] else ("line", "is")
    faults = [f"{noun} {_listed(blank)} {verb} blank"] if blank else []
    faults += [_listed(double)] if double else []
    if faults:
        logger.warning("the vocabulary %s has ids without a token: %s", path, "; ".join(faults))


def _listed(names: Sequence[str]) -> str:
    if len(names) > _LINES_NAMED:
        return f"{', '.join(names[:_LINES_NAMED])} and {len(names) - _LINES_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _check_mapping(vocab: Mapping[str, int]) -> dict[str, int]:
    if not vocab:
        raise TokenizerError("the vocabulary is empty; expected a mapping of tokens to ids")
    for token, code in vocab.items():
        if not isinstance(token, str) or not isinstance(code, int) or isinstance(code, bool):
            raise TokenizerError(
                f"the vocabulary maps {token!r} to {code!r}; expected a str mapped to an int"
            )
        check_unicode(token)
    in_order = sorted((code, token) for token, code in vocab.items())
    for (code, token), (other, _) in zip(in_order, [(-1, ""), *in_order], strict=False):
        if code <= other:
            expected = "0 or more" if code < 0 else "one of its own"
            raise TokenizerError(f"the vocabulary gives {token!r} the id {code}; expected {expected}")
    largest, token = in_order[-1]
    if largest >= len(vocab) + _MOST_UNUSED_IDS:
        raise TokenizerError(
            f"the vocabulary of {len(vocab)} tokens gives {token!r} the id {largest}; "
            f"expected at most {len(vocab) + _MOST_UNUSED_IDS - 1}"
        )
    return dict(vocab)
