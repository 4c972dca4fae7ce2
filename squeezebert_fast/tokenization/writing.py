"""Writing tokenizer directories that transformers 4 and 5 read, all files or none; `files` says which."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from squeezebert_fast.errors import CheckpointError, TokenizerError
from squeezebert_fast.storage.files import all_or_nothing
from squeezebert_fast.tokenization.files import (
    ADDED_TOKEN_FLAGS,
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    MODEL_OPTIONS,
    NORMALIZER_OPTIONS,
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
)
from squeezebert_fast.tokenization.lexicon import Lexicon
from squeezebert_fast.tokenization.vocab_file import vocab_lines

logger = logging.getLogger("squeezebert_fast.tokenization")


def write_directory(
    directory: str | os.PathLike[str], lexicon: Lexicon, config: Mapping[str, Any], unknown: str, prefix: str
) -> tuple[str, ...]:
    """Writes all files, each name opened by `prefix`; returns their paths.

    vocab.txt is left out, with a warning, where a token can't be a line; tokenizer.json holds every token.
    Raises `TokenizerError`, and leaves the directory as it was, if a file can't be written.
    """
    flagged = {code: _flags(token) for code, token in lexicon.added.items()}
    special = {
        name: config[name] for name in (*SPECIAL_TOKENS, "additional_special_tokens") if config.get(name)
    }
    after = {token.content: code for code, token in lexicon.added.items() if code >= lexicon.vocab_size}
    contents = {
        TOKENIZER_FILE: _json(TOKENIZER_FILE, _pipeline(lexicon, config, unknown, flagged)),
        CONFIG_FILE: _json(
            CONFIG_FILE, {**config, "added_tokens_decoder": {str(code): t for code, t in flagged.items()}}
        ),
        SPECIAL_TOKENS_FILE: _json(SPECIAL_TOKENS_FILE, special),
    }
    if after:
        contents[ADDED_TOKENS_FILE] = _json(ADDED_TOKENS_FILE, after)
    try:
        contents[VOCAB_FILE] = vocab_lines(lexicon.vocab, VOCAB_FILE)
    except TokenizerError as error:
        logger.warning("%s is left out of %s: %s", VOCAB_FILE, os.fspath(directory), error)
    folder = Path(directory)
    written = _write(folder, {prefix + name: content for name, content in contents.items()})
    for name in {ADDED_TOKENS_FILE, VOCAB_FILE} - contents.keys():  # an earlier tokenizer's
        try:
            (folder / (prefix + name)).unlink(missing_ok=True)
        except OSError as error:
            raise TokenizerError(f"{folder / (prefix + name)} can't be removed: {error.strerror}") from error
    return written


def write_vocab(path: Path, lexicon: Lexicon) -> tuple[str, ...]:
    """Writes the vocabulary without added tokens, one token a line; returns the path.

    Raises `TokenizerError` for a token that can't be a line, and if the file can't be written.
    """
    content = vocab_lines(lexicon.vocab, VOCAB_FILE)
    if not path.parent.is_dir():
        raise TokenizerError(f"the tokenizer can't be saved in {path.parent}: it isn't a directory")
    return _write(path.parent, {path.name: content})


def _write(folder: Path, contents: Mapping[str, bytes]) -> tuple[str, ...]:
    try:
        with all_or_nothing(folder) as stage:
            for name, content in contents.items():
                stage(name).write_bytes(content)
    except CheckpointError as error:
        raise TokenizerError(f"the tokenizer can't be saved: {error}") from error
    return tuple(str(folder / name) for name in contents)


def _json(name: str, content: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError) as error:  # a value of init_kwargs; a lone surrogate in one
        raise TokenizerError(f"{name} can't be written: {error}") from error


def _flags(token: AddedToken) -> dict[str, Any]:
    return {"content": token.content} | {flag: getattr(token, flag) for flag in ADDED_TOKEN_FLAGS}


def _pipeline(
    lexicon: Lexicon, config: Mapping[str, Any], unknown: str, flagged: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    cls, sep = config["cls_token"], config["sep_token"]

    def special(token: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    first, second = ({"Sequence": {"id": name, "type_id": type_id}} for type_id, name in enumerate("AB"))
    single = [special(cls, 0), first, special(sep, 0)]
    ids = {token: [lexicon.token_to_id(token)] for token in (cls, sep)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": code, **token} for code, token in flagged.items()],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            **{theirs: config[ours] for theirs, ours in NORMALIZER_OPTIONS.items()},
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, second, special(sep, 1)],
            "special_tokens": {
                token: {"id": token, "ids": code, "tokens": [token]} for token, code in ids.items()
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": unknown, **MODEL_OPTIONS, "vocab": lexicon.vocab},
    }
