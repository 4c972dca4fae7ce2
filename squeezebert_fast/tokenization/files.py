"""Reading tokenizer directories as transformers 4 and 5 write them; `writing` writes them.

tokenizer.json           vocabulary, added tokens and the whole pipeline, for the Rust library
tokenizer_config.json    options and special tokens
vocab.txt                the vocabulary alone, one token a line
special_tokens_map.json  special tokens, for transformers 4
added_tokens.json        ids of the tokens after the vocabulary, for transformers 4's Python tokenizers
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from squeezebert_fast.errors import CheckpointError, TokenizerError
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.tokenization.vocab_file import check_unicode, read_vocab

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
VOCAB_FILE = "vocab.txt"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

ADDED_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_PIPELINE = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
MODEL_OPTIONS = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
NORMALIZER_OPTIONS = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "handle_chinese_chars": "tokenize_chinese_chars",
}

Find = Callable[[str], "Path | None"]
"""Gives the path of a file by its name, None where there is none."""

# What describes the files that were read, or that the constructor takes in another form.
_NOT_ARGUMENTS = {
    *("tokenizer_class", "added_tokens_decoder", "additional_special_tokens", "init_inputs", "auto_map"),
    *("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "vocab", "added_tokens"),
    *("is_local", "local_files_only", "backend", "files_loaded", "transformers_version"),
}


def read_directory(find: Find, where: str) -> dict[str, Any]:
    """The arguments for a tokenizer's constructor that the files of a directory or hub repository hold.

    Options and special tokens come from tokenizer_config.json, what it leaves out from the other files, as in
    transformers 5. Raises `TokenizerError` for a file that is missing, malformed or of another kind of
    tokenizer.
    """
    pipeline = _read_pipeline(find(TOKENIZER_FILE))
    config = _read_json(find(CONFIG_FILE))
    absent = object()  # null is a value for these, elsewhere it means the default
    nullable = {name: config.get(name, absent) for name in ("strip_accents", "pad_token", "mask_token")}
    arguments = _pipeline_options(pipeline) | {
        key: value for key, value in config.items() if value is not None
    }
    arguments |= {name: value for name, value in nullable.items() if value is not absent}
    added = _added_tokens(config, pipeline, find, arguments)
    extra = _extra_special_tokens(arguments)
    arguments = {name: value for name, value in arguments.items() if name not in _NOT_ARGUMENTS}
    if pipeline:
        arguments["vocab"] = pipeline["model"]["vocab"]
    else:
        vocab_file = find(VOCAB_FILE)
        if vocab_file is None:
            raise TokenizerError(f"{where} has neither {TOKENIZER_FILE} nor {VOCAB_FILE}")
        arguments["vocab"] = read_vocab(vocab_file)
    _check_added_ids(arguments["vocab"], added)
    arguments["added_tokens"] = [added[code] for code in sorted(added)]
    return _known_special_tokens(arguments, extra, {token.content: token for token in added.values()})


def finder(model: ModelFiles) -> Find:
    """Finds files of a directory or hub repository, all of one commit: that of the first file found."""

    def find(filename: str) -> Path | None:
        nonlocal model
        try:
            path = model.optional(filename)
        except CheckpointError as error:
            raise TokenizerError(str(error)) from error
        model = model.pinned_to(path) if path else model
        return path

    return find


def only(path: Path, kind: str) -> Find:
    """Finds this file, which is of this kind whatever its name, and nothing else."""
    return lambda filename: path if filename == kind else None


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise TokenizerError(f"{path} can't be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise TokenizerError(f"{path} isn't JSON in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a {type(content).__name__}; expected an object")
    return content


def _read_pipeline(path: Path | None) -> dict[str, Any]:
    """tokenizer.json, checked to be what a BERT tokenizer does and nothing else."""
    pipeline = _read_json(path)
    if not pipeline:
        if path is not None:
            raise TokenizerError(f"{path} is empty; expected a WordPiece tokenizer")
        return {}
    for part, expected in _PIPELINE.items():
        found = pipeline.get(part)
        kind = found.get("type", expected) if isinstance(found, dict) else found
        if kind != expected or not isinstance(found, dict):
            raise TokenizerError(f"{path} has the {part} {kind!r}; expected a {expected!r}")
    model = pipeline["model"]
    for option, value in MODEL_OPTIONS.items():
        if model.get(option, value) != value:
            raise TokenizerError(f"{path} has {option}={model[option]!r}; expected {value!r}")
    if pipeline["normalizer"].get("clean_text", True) is not True:
        raise TokenizerError(f"{path} has clean_text={pipeline['normalizer']['clean_text']!r}; expected true")
    if not isinstance(model.get("vocab"), dict):
        raise TokenizerError(f"{path} has no vocabulary in its model")
    return pipeline


def _pipeline_options(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    options = {}
    for theirs, ours in NORMALIZER_OPTIONS.items():
        if theirs in pipeline.get("normalizer", {}):
            options[ours] = pipeline["normalizer"][theirs]
    for part, ours in (("padding", "padding_side"), ("truncation", "truncation_side")):
        if isinstance(pipeline.get(part), dict) and "direction" in pipeline[part]:
            options[ours] = str(pipeline[part]["direction"]).lower()
    return options


def _added_tokens(
    config: Mapping[str, Any],
    pipeline: Mapping[str, Any],
    find: Callable[[str], Path | None],
    arguments: dict[str, Any],
) -> dict[int, AddedToken]:
    """Added tokens by id. Where the config doesn't list them, older files do, with special tokens."""
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]
        if not isinstance(listed, dict):
            raise TokenizerError(f"{CONFIG_FILE}: added_tokens_decoder is {listed!r}; expected an object")
        return {_token_id(code): _added_token(token) for code, token in listed.items()}
    arguments.update(_read_json(find(SPECIAL_TOKENS_FILE)))
    special = {_content(arguments.get(name)) for name in SPECIAL_TOKENS}
    special |= {_content(token) for token in _extra_special_tokens(arguments)}
    added = {}
    for content, code in _read_json(find(ADDED_TOKENS_FILE)).items():
        check_unicode(content)
        is_special = content in special
        added[_token_id(code)] = AddedToken(content, normalized=not is_special, special=is_special)
    listed = pipeline.get("added_tokens") or []
    if not isinstance(listed, list):
        raise TokenizerError(f"{TOKENIZER_FILE}: added_tokens is {listed!r}; expected a list")
    for token in listed:
        added[_token_id(token.get("id") if isinstance(token, dict) else None)] = _added_token(token)
    return added


def _extra_special_tokens(arguments: Mapping[str, Any]) -> list[Any]:
    # transformers 5 calls them extra, transformers 4 additional.
    extra = arguments.get("extra_special_tokens") or arguments.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        extra = list(extra.values())
    if not isinstance(extra, list):
        raise TokenizerError(f"{CONFIG_FILE}: extra_special_tokens is {extra!r}; expected a list")
    return extra


def _known_special_tokens(
    arguments: dict[str, Any], extra: list[Any], added: Mapping[str, AddedToken]
) -> dict[str, Any]:
    """Special tokens as the added tokens of that name, which know their flags, else as they are spelled."""

    def known(token: Any) -> str | AddedToken:
        content = _content(token)
        return added.get(content) or (_added_token(token) if isinstance(token, dict) else content)

    arguments["extra_special_tokens"] = [known(token) for token in extra]
    for name in SPECIAL_TOKENS:
        if arguments.get(name) is not None:
            arguments[name] = token = known(arguments[name])
            content = str(token)
            check_unicode(content)
            if content not in arguments["vocab"] and content not in added:
                raise TokenizerError(f"the vocabulary has no {content!r} ({name})")
    return arguments


def _content(token: Any) -> str:
    content = token.get("content") if isinstance(token, dict) else "" if token is None else token
    if not isinstance(content, str):
        raise TokenizerError(f"a special token is {token!r}; expected a string or an object with its content")
    return content


def _added_token(token: Any) -> AddedToken:
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise TokenizerError(f"an added token is {token!r}; expected an object with its content")
    check_unicode(token["content"])
    flags = {flag: token[flag] for flag in ADDED_TOKEN_FLAGS if flag in token}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise TokenizerError(
            f"the added token {token['content']!r} has flags {flags}; expected true or false"
        )
    return AddedToken(token["content"], **flags)


def _token_id(code: Any) -> int:
    try:
        if isinstance(code, (str, int)) and not isinstance(code, bool):
            return int(code)
    except ValueError:
        pass
    raise TokenizerError(f"an added token has the id {code!r}; expected an integer")


def _check_added_ids(vocab: Mapping[str, Any], added: Mapping[int, AddedToken]) -> None:
    expected = max((code for code in vocab.values() if isinstance(code, int)), default=-1) + 1
    for code in sorted(added):
        content = added[code].content
        if content in vocab:
            if vocab[content] != code:
                raise TokenizerError(
                    f"the added token {content!r} has the id {code}, in the vocabulary {vocab[content]}"
                )
        elif code != expected:
            raise TokenizerError(
                f"the added token {content!r} has the id {code}; expected {expected}, the next free one"
            )
        else:
            expected += 1
