"""What users, PEFT, accelerate and pipelines ask of a configuration of transformers, besides its fields.

Names, arguments and results are those of transformers' `PreTrainedConfig`. An argument that can't matter here is
accepted and does nothing, which its docstring says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from squeezebert_fast.storage.arguments import for_upload, without_idle
from squeezebert_fast.storage.files import CONFIG_NAME, all_or_nothing, directory_named
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.storage.upload import upload

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

Config = TypeVar("Config", bound="ConfigInterface")


class ConfigInterface:
    """Base of `SqueezeBertConfig`, which adds the fields, their validation and the form of config.json."""

    # What every SqueezeBERT is, which code that is written for many models asks for.
    is_encoder_decoder = False
    is_composition = False
    sub_configs: ClassVar[dict[str, Any]] = {}
    attribute_map: ClassVar[dict[str, str]] = {}
    keys_to_ignore_at_inference: ClassVar[list[str]] = []
    _attn_implementation = "eager"
    _commit_hash: str | None = None
    _name_or_path = ""
    return_dict: bool
    dtype: str | None

    @property
    def name_or_path(self) -> str:
        """Where the configuration was loaded from, or the empty string. It is not saved."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str | os.PathLike[str]) -> None:
        self._name_or_path = os.fspath(value)

    @property
    def use_return_dict(self) -> bool:
        """`return_dict` by an older name."""
        return self.return_dict

    @property
    def torch_dtype(self) -> str | None:
        """`dtype` by an older name."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value: torch.dtype | str | None) -> None:
        self.dtype = value  # type: ignore[assignment]  # SqueezeBertConfig keeps a dtype's name

    def get_text_config(self: Config, decoder: bool | None = None, encoder: bool | None = None) -> Config:
        """This configuration. decoder and encoder do nothing: a SqueezeBERT has no parts to choose from."""
        return self

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Assign each item of `config_dict`; a model that is built from this configuration validates it."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def to_diff_dict(self) -> dict[str, Any]:
        """Of `to_dict`, model_type and what a configuration of defaults doesn't have."""
        defaults = type(self)().to_dict()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name == "model_type" or name not in defaults or value != defaults[name]
        }

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def to_json_string(self, use_diff: bool = False) -> str:
        raise NotImplementedError

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = False) -> None:
        """Write `to_json_string(use_diff)` to a file. Raises CheckpointError."""
        path = Path(json_file_path)
        with all_or_nothing(path.parent) as stage:
            stage(path.name).write_text(self.to_json_string(use_diff), encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **overrides: Any,
    ) -> Any:
        """The configuration of a model's directory or hub repository, or of a file such as config.json.

        The arguments are those of `resolve_file`; overrides replace values of the file, and an unknown one is kept,
        as in the class itself. return_unused_kwargs: give (configuration, unknown ones) instead. What only concerns
        transformers' loading, such as trust_remote_code, does nothing. Raises CheckpointError and ConfigError.
        """
        overrides, token = without_idle(overrides, token)
        files = ModelFiles(
            pretrained_model_name_or_path,
            revision,
            cache_dir,
            local_files_only,
            token,
            subfolder,
            force_download,
        )
        unused = cls._unused(overrides) if return_unused_kwargs else {}
        config = cls.from_json_file(files.file_or(CONFIG_NAME), **overrides)
        config.name_or_path = pretrained_model_name_or_path
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def _unused(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        """What of `overrides` is no field, taken out of them."""
        return {name: overrides.pop(name) for name in list(overrides) if not cls.has_field(name)}

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str], **overrides: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def has_field(cls, name: str) -> bool:
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> None:
        """Write config.json into a directory, made with its parents. Raises CheckpointError.

        push_to_hub: upload it as well, to `repo_id` or the repository of the directory's name; options are
        `push_to_hub`'s. Raises ArgumentError for others.
        """
        options = for_upload(options)
        directory = directory_named(save_directory)
        with all_or_nothing(directory) as stage:
            stage(CONFIG_NAME).write_text(self.to_json_string(), encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(repo_id or directory.resolve().name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Upload config.json to a repository of the hub, made if need be.

        options: of `squeezebert_fast.storage.upload.upload`. Raises CheckpointError and ArgumentError.
        """
        return upload(self.save_pretrained, repo_id, **for_upload(options))
