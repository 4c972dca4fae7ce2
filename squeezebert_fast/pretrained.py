"""A model and its tokenizer from a directory or a hub name, whichever library they are of.

    find(name) -> Own           a SqueezeBERT: this package's models and tokenizer
               -> Transformers  a BERT, RoBERTa, DistilBERT, ...: transformers' models and tokenizers, as they are

What commands and training ask of either stands in `Pretrained`. Heads go by the name of this package's class with that
head: SqueezeBertForMaskedLM says BertForMaskedLM of a BERT. A sentence-transformers folder is its transformer here.
"""

from __future__ import annotations

import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from torch import nn

from squeezebert_fast.configuration import MODEL_TYPE, SqueezeBertConfig
from squeezebert_fast.errors import ConfigError, StorageError, TokenizerError, TrainingError
from squeezebert_fast.loading import sentence_folder, transformers_models
from squeezebert_fast.loading.int8_file import INT8_NAME, dequantized, read_quantized
from squeezebert_fast.loading.sentence_folder import SentenceFolder
from squeezebert_fast.loading.weights import weight_files
from squeezebert_fast.modeling import SqueezeBertForMaskedLM, SqueezeBertModel, SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.stored_heads import HEADS, check_head, stored_class
from squeezebert_fast.patching.int8_checkpoint import load_transformer
from squeezebert_fast.storage.files import CONFIG_NAME, all_or_nothing, read_json_object
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.trained_with import TrainedWith

logger = logging.getLogger("squeezebert_fast.loading")

Model: TypeAlias = Any
"""A SqueezeBertPreTrainedModel, or a model of transformers."""
Config: TypeAlias = Any
"""A model's configuration. Of the sizes only those may be read that transformers has for all of its models."""
Tokenizer: TypeAlias = Any
"""A SqueezeBertTokenizerFast, or a fast tokenizer of transformers."""
Head: TypeAlias = type[SqueezeBertPreTrainedModel]

OWN_PREFIX = "SqueezeBert"
SERVES_AS = {"BertForPreTraining": SqueezeBertForMaskedLM}
"""The classes that have another head's weights too."""


class Pretrained(ABC):
    """A model's directory or hub repository.

    files: its files, all of one commit. architecture: the class that its configuration names, or None. trained_with:
    what its configuration says of its training. is_own: whether its model is one of this package's classes.
    """

    is_own: ClassVar[bool]

    def __init__(self, files: ModelFiles, config: Mapping[str, Any]) -> None:
        self.files = files
        self.name = os.fspath(files.name_or_path)
        names = config.get("architectures")
        self.architecture: str | None = names[0] if isinstance(names, list) and names else None
        self.trained_with = TrainedWith.of_config(config, f"{self.name}/{CONFIG_NAME}")

    @abstractmethod
    def config(self) -> Config:
        """Its configuration."""

    @abstractmethod
    def load(self, head: Head, *, dequantize: bool = False) -> Model:
        """The model with a head of this kind, in float32 and eval mode; an int8 checkpoint's is patched for int8.

        dequantize: give an ordinary float model of an int8 checkpoint too.
        Raises ConfigError for a checkpoint without the head, CheckpointError for one that is damaged.
        """

    @abstractmethod
    def load_as_saved(self, *, dequantize: bool = False) -> Model:
        """The model with the head that it was saved with. Raises as `load` does."""

    @abstractmethod
    def load_to_train(self, head: Head, label_fields: Mapping[str, Any]) -> Model:
        """The model with a head for these labels; one that it lacks, or has for others, is initialised at random.

        label_fields: of the configuration. Raises as `load` does, and TrainingError for an int8 checkpoint.
        """

    @abstractmethod
    def tokenizer(self, *, of_words: bool = False) -> Tokenizer:
        """Its tokenizer. of_words: whether it is to be given texts that are cut into words."""

    def is_int8(self) -> bool:
        """Whether it is an int8 checkpoint."""
        has = self.files.optional
        return not any(has(name) for name in weight_files()) and has(INT8_NAME) is not None

    def _refuse_int8(self) -> None:
        if self.is_int8():
            raise TrainingError(
                f"{self.name} is an int8 checkpoint, which can't be trained; give the float one"
            )


def find(name_or_path: str | os.PathLike[str]) -> Pretrained:
    """What there is of that name. Raises ConfigError for a model of a type that no family has, CheckpointError."""
    return of_files(ModelFiles(name_or_path))


def find_sentence_folder(name_or_path: str | os.PathLike[str]) -> SentenceFolder | None:
    """The sentence-transformers folder of that name, or None where it is another."""
    return sentence_folder.read(ModelFiles(name_or_path))


def of_files(files: ModelFiles) -> Pretrained:
    """`find`, given where the files are."""
    path = files.optional(CONFIG_NAME)
    if path is None:
        folder = sentence_folder.read(files)
        files = files if folder is None else folder.transformer
        path = files.required(CONFIG_NAME)
    config = read_json_object(path)
    model_type = config.get("model_type", MODEL_TYPE)
    files = files.pinned_to(path)
    if model_type == MODEL_TYPE:
        return Own(files, config)
    transformers_models.check_model_type(model_type, path)
    return Transformers(files, config)


def save(model: Model, directory: Path) -> None:
    """Write a model so that its library and `find` load it, once all of its files are whole."""
    if isinstance(model, SqueezeBertPreTrainedModel):
        model.save_pretrained(directory)
        return
    _save_all(model, directory)


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write a tokenizer beside its model, all of its files or none.

    Raises StorageError where they can't be written, and TokenizerError.
    """
    if isinstance(tokenizer, SqueezeBertTokenizerFast):
        try:
            tokenizer.save_pretrained(directory)
        except TokenizerError as error:
            if isinstance(error.__cause__, StorageError):
                raise error.__cause__ from None
            raise
        return
    _save_all(tokenizer, directory)


def _save_all(of_transformers: Any, directory: Path) -> None:
    with all_or_nothing(directory) as stage, tempfile.TemporaryDirectory(".tmp", ".", directory) as made:
        with transformers_models.refused_in_one_line(f"save {directory}"):
            of_transformers.save_pretrained(made)
        for file in sorted(Path(made).iterdir()):
            os.replace(file, stage(file.name))


def is_int8(model: nn.Module) -> bool:
    """Whether a model was loaded from an int8 checkpoint, or gave up its float weights otherwise."""
    return any(parameter.is_meta for parameter in model.parameters())


class Own(Pretrained):
    """A SqueezeBERT."""

    is_own = True

    def config(self) -> SqueezeBertConfig:
        return SqueezeBertConfig.from_json_file(self.files.required(CONFIG_NAME))

    def load(self, head: Head, *, dequantize: bool = False) -> SqueezeBertPreTrainedModel:
        if head in HEADS:
            check_head(head, self.files)
        return self._load(head, dequantize=dequantize)

    def load_as_saved(self, *, dequantize: bool = False) -> SqueezeBertPreTrainedModel:
        return self._load(stored_class(self.files), dequantize=dequantize)

    def load_to_train(self, head: Head, label_fields: Mapping[str, Any]) -> SqueezeBertPreTrainedModel:
        self._refuse_int8()
        fields = _without_same_labels(label_fields, self.config())
        return self._load(head, ignore_mismatched_sizes=True, **fields)

    def _load(self, cls: Head, **options: Any) -> SqueezeBertPreTrainedModel:
        return cls.from_pretrained(self.files.name_or_path, **self._place, **options)

    @property
    def _place(self) -> dict[str, Any]:
        return {"revision": self.files.revision, "subfolder": self.files.subfolder}

    def tokenizer(self, *, of_words: bool = False) -> SqueezeBertTokenizerFast:
        return SqueezeBertTokenizerFast.from_pretrained(self.files.name_or_path, **self._place)


class Transformers(Pretrained):
    """A model of transformers."""

    is_own = False

    def __init__(self, files: ModelFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files, config)
        self.path = files.required(CONFIG_NAME)
        self.model_type: str = config["model_type"]

    def config(self) -> Config:
        return transformers_models.read_config(self._class_of(SqueezeBertModel), self.path)

    def load(self, head: Head, *, dequantize: bool = False) -> Model:
        cls = self._class_of(head)
        stored = self.architecture or cls.__name__
        if head is not SqueezeBertModel and stored != cls.__name__ and SERVES_AS.get(stored) is not head:
            raise ConfigError(f"{self.name} is a {stored}, expected a {cls.__name__}")
        return self._load(cls, dequantize)

    def load_as_saved(self, *, dequantize: bool = False) -> Model:
        return self._load(self._own_class(), dequantize)

    def load_to_train(self, head: Head, label_fields: Mapping[str, Any]) -> Model:
        self._refuse_int8()
        cls = self._class_of(head)
        fields = _without_same_labels(label_fields, self.config())
        config = transformers_models.read_config(cls, self.path, fields)
        model, missing = transformers_models.from_pretrained(cls, self.files, config)
        if missing:
            logger.warning("not in the checkpoint, so initialised at random: %s", ", ".join(missing))
        return model

    def tokenizer(self, *, of_words: bool = False) -> Tokenizer:
        return transformers_models.load_tokenizer(self.files, self.config(), of_words=of_words)

    def _load(self, cls: type[nn.Module], dequantize: bool) -> Model:
        config = transformers_models.read_config(cls, self.path)
        state = None
        if self.is_int8():
            if not dequantize:
                return self._with_head(load_transformer(self.files), cls)
            stored = dequantized(read_quantized(self.files.required(INT8_NAME)))
            state = {name: entry.tensor for name, entry in stored.items()}
        model, missing = transformers_models.from_pretrained(cls, self.files, config, state)
        if wanted := [name for name in missing if model.base_model is not model]:
            raise ConfigError(f"{self.name} has no weights {wanted[0]} and so isn't a {cls.__name__}")
        return model

    def _with_head(self, model: Model, cls: type[nn.Module]) -> Model:
        for found in (model, model.base_model):
            if type(found) is cls:
                return found
        raise ConfigError(f"{self.name} is an int8 {type(model).__name__}, expected a {cls.__name__}")

    def _class_of(self, head: Head) -> type[nn.Module]:
        name = transformers_models.PREFIXES[self.model_type] + head.__name__.removeprefix(OWN_PREFIX)
        return transformers_models.class_named(name, self.model_type, self.path)

    def _own_class(self) -> type[nn.Module]:
        if self.architecture is None:
            return self._class_of(SqueezeBertModel)
        return transformers_models.class_named(self.architecture, self.model_type, self.path)


def _without_same_labels(fields: Mapping[str, Any], stored: Config) -> dict[str, Any]:
    """A checkpoint with the same labels keeps its own order of them."""
    if set(fields.get("label2id", ())) == set(stored.label2id or ()):
        return {name: value for name, value in fields.items() if name not in ("id2label", "label2id")}
    return dict(fields)
