"""The part of a tokenizer that reads and writes directories, and makes tokenizers from others."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenizers import AddedToken

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.storage.upload import upload
from squeezebert_fast.tokenization import files
from squeezebert_fast.tokenization.lexicon import make_added_token
from squeezebert_fast.tokenization.training import train_vocabulary
from squeezebert_fast.tokenization.vocabulary import Vocabulary
from squeezebert_fast.tokenization.writing import write_directory, write_vocab

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

Self = TypeVar("Self", bound="PretrainedTokenizer")

# transformers' arguments that can't matter here: the class says which tokenizer it is, and no code is downloaded.
_WITHOUT_EFFECT = (
    *("use_fast", "trust_remote_code", "code_revision", "resume_download", "config"),
    *("_from_auto", "_from_pipeline", "_commit_hash"),
)
_VOCABULARIES = ("vocab", "vocab_file", "tokenizer_file")


class PretrainedTokenizer(Vocabulary):
    """A tokenizer that can be saved, published, read, and trained anew."""

    name_or_path: str
    init_kwargs: dict[str, Any]

    def __init__(self, vocab: Any = None, **options: Any) -> None:
        raise NotImplementedError

    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """The constructor's arguments but the vocabulary and added tokens."""

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str | None = None,
        **overrides: Any,
    ) -> Self:
        """The tokenizer of a directory or hub repository that transformers or `save_pretrained` wrote.

        pretrained_model_name_or_path: also the path of a vocab.txt or tokenizer.json alone.
        force_download: download files of the hub though they are cached.
        overrides: constructor arguments, which replace what the files say. Special tokens that the vocabulary
            lacks are added to it: `model.resize_token_embeddings(len(tokenizer))`. Unknown arguments are kept
            in `init_kwargs`.
        use_fast, trust_remote_code, config, resume_download and code_revision of transformers do nothing.
        Raises `TokenizerError` for missing or malformed files and malformed overrides.
        """
        for name in ("proxies", "gguf_file"):
            if overrides.pop(name, None) is not None:
                raise TokenizerError(f"{name} isn't supported; for a proxy set HTTPS_PROXY")
        token = overrides.pop("use_auth_token", token)
        overrides = {name: value for name, value in overrides.items() if name not in _WITHOUT_EFFECT}
        path = Path(pretrained_model_name_or_path)
        if path.is_file():
            find = files.only(path, files.TOKENIZER_FILE if path.suffix == ".json" else files.VOCAB_FILE)
        else:
            model = ModelFiles(
                pretrained_model_name_or_path,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                subfolder=subfolder,
            )
            find = files.finder(model)
        arguments = files.read_directory(find, os.fspath(pretrained_model_name_or_path))
        if any(overrides.get(name) is not None for name in _VOCABULARIES):
            del arguments["vocab"]
        if "additional_special_tokens" in overrides:
            overrides.setdefault("extra_special_tokens", overrides.pop("additional_special_tokens"))
        tokenizer = cls(**{**arguments, **overrides})
        tokenizer.name_or_path = os.fspath(pretrained_model_name_or_path)
        return tokenizer

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> tuple[str, ...]:
        """Writes a directory that `from_pretrained` reads, in transformers too; returns its files.

        All files are written or none. legacy_format does nothing: both formats are written.
        filename_prefix: opens the names of all files, which `from_pretrained` then doesn't find.
        push_to_hub, hub: also `push_to_hub(**hub)`, by default as the directory's name.
        Raises `TokenizerError` if a file can't be written.
        """
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        config = {
            **self.init_kwargs,
            "tokenizer_class": "SqueezeBertTokenizer",
            **self._options(),
            "additional_special_tokens": self.extra_special_tokens,
        }
        written = write_directory(save_directory, self._lexicon, config, self._token("unk_token"), prefix)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).absolute().name), **hub)
        return written

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Writes `vocab.txt` (`prefix-vocab.txt`), without added tokens; returns its path."""
        name = f"{filename_prefix}-{files.VOCAB_FILE}" if filename_prefix else files.VOCAB_FILE
        return write_vocab(Path(save_directory) / name, self._lexicon)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Upload what `save_pretrained` writes to a repository of the hub, made if need be.

        options: of `squeezebert_fast.storage.upload.upload`. Raises CheckpointError, TokenizerError.
        """
        return upload(self.save_pretrained, repo_id, **{"commit_message": "Upload tokenizer", **options})

    def with_vocab(self: Self, vocab: Mapping[str, int]) -> Self:
        """A tokenizer with the same options and added tokens over another vocabulary, which should hold the latter.

        Raises `TokenizerError` as the constructor does.
        """
        added = tuple(self.added_tokens_decoder.values())
        extra = self.extra_special_tokens
        return type(self)(vocab, added_tokens=added, extra_special_tokens=extra, **self._options())

    def train_new_from_iterator(
        self: Self,
        text_iterator: Iterable[str] | Iterable[Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer: Any,
    ) -> Self:
        """A tokenizer with the same options and special tokens over a WordPiece vocabulary of other texts.

        text_iterator: texts or batches of them.
        vocab_size: of the new vocabulary, special tokens included; with few texts it comes out smaller.
        length: how many texts there are, for the progress bar.
        special_tokens_map: from this tokenizer's special tokens to new spellings.
        trainer: options of `tokenizers.trainers.WordPieceTrainer`, such as `min_frequency`.
        Raises `TokenizerError` for options that it doesn't have.
        """
        renamed = dict(special_tokens_map or {})
        new = [make_added_token(token, special=True) for token in new_special_tokens or ()]
        special = [
            make_added_token(token, special=True, content=renamed.get(token.content))
            for token in self._lexicon.added.values()
            if token.special
        ] + new
        options = self._options()
        vocab = train_vocabulary(text_iterator, vocab_size, length, special, options, trainer)
        options |= {name: renamed.get(token, token) for name, token in self.special_tokens_map.items()}
        extra = [renamed.get(token, token) for token in self.extra_special_tokens]
        return type(self)(
            vocab,
            added_tokens=special,
            extra_special_tokens=[*extra, *(token.content for token in new)],
            **options,
        )
