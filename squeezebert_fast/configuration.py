"""The configuration of a SqueezeBERT model: fields, their validation, and the config.json form."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from squeezebert_fast.activations import activation_names
from squeezebert_fast.configuration_interface import ConfigInterface
from squeezebert_fast.errors import ArgumentError, ConfigError, one_of

MODEL_TYPE = "squeezebert"
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Which channel counts each group count must divide: the inputs and outputs of its convolution.
GROUPED_CHANNELS = {
    "q_groups": ("hidden_size",),
    "k_groups": ("hidden_size",),
    "v_groups": ("hidden_size",),
    "post_attention_groups": ("hidden_size",),
    "intermediate_groups": ("hidden_size", "intermediate_size"),
    "output_groups": ("intermediate_size", "hidden_size"),
}
POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "embedding_size",
    *GROUPED_CHANNELS,
)
# Of transformers' configuration, what means nothing here: it may be overridden as a field may, and is kept in `extra`.
IDLE_FIELDS = ("bos_token_id", "eos_token_id", "chunk_size_feed_forward")
# Labels that a file asks for by their number alone; more than these must be named, or their number be passed.
MAX_UNNAMED_LABELS = 10_000
FLAGS = ("tie_word_embeddings", "return_dict", "output_attentions", "output_hidden_states")


@dataclass(kw_only=True)
class _Fields:
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    embedding_size: int | None = None
    q_groups: int = 4
    k_groups: int = 4
    v_groups: int = 4
    post_attention_groups: int = 1
    intermediate_groups: int = 4
    output_groups: int = 4
    tie_word_embeddings: bool = True
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None
    return_dict: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    architectures: list[str] | None = None
    dtype: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class SqueezeBertConfig(_Fields, ConfigInterface):
    """What a SqueezeBERT model is made of, with transformers' `SqueezeBertConfig` names and defaults.

    Fields are keyword-only and stay assignable; `validate` runs on construction and again when a model is
    built. Those that need a word:

    - `embedding_size` must equal `hidden_size`, which None stands for: there is no projection in between.
    - `num_labels` is the length of `id2label` (default 2) and may be passed or assigned instead of it.
    - `layer_norm_eps` serves the embeddings and the masked-language-model head; the layers always use 1e-12.
    - `dtype` is the name of the dtype that a checkpoint was saved in, such as "float16", or None.
    - `extra` holds what means nothing here, to be written back: keys of a loaded config.json, and keywords and
      attributes that are no fields, unless they are so close to a field's name that they must be meant for it.
      They are read as attributes too, as in transformers.

    Raises ConfigError, naming the field, its value and what was expected.

    >>> SqueezeBertConfig(hidden_size=64, num_attention_heads=4, num_labels=3).num_labels
    3
    """

    model_type = MODEL_TYPE

    def __init__(self, *, num_labels: int | None = None, model_type: str = MODEL_TYPE, **values: Any) -> None:
        _require(model_type == MODEL_TYPE, "model_type", model_type, repr(MODEL_TYPE))
        known = {name: value for name, value in values.items() if name in FIELD_NAMES}
        super().__init__(**known)
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        for name, value in values.items():
            if name not in known:
                refuse_typo(name)
                setattr(self, name, value)
        self._resolve_labels(num_labels)
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dtype" and isinstance(value, torch.dtype):
            value = str(value).removeprefix("torch.")
        if name in FIELD_NAMES or name.startswith("_") or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            self.extra[name] = value

    def __getattr__(self, name: str) -> Any:
        # A copy that is being made has no `extra` yet.
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if name in self.extra:
            del self.extra[name]
        else:
            super().__delattr__(name)

    def _resolve_labels(self, num_labels: int | None) -> None:
        _require(num_labels is None or _is_int(num_labels, 1), "num_labels", num_labels, "a positive integer")
        for name in ("id2label", "label2id"):
            value = getattr(self, name)
            _require(value is None or isinstance(value, dict), name, value, "a mapping or null")
        try:  # JSON knows string keys only
            if self.id2label is not None:
                self.id2label = {int(index): label for index, label in self.id2label.items()}
            elif self.label2id is not None:
                self.id2label = {int(index): label for label, index in self.label2id.items()}
            if self.id2label is not None and self.label2id is None:
                self.label2id = {label: index for index, label in self.id2label.items()}
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"config field id2label is {self.id2label or self.label2id!r}, expected names by integer indices"
            ) from None
        if self.id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
        expected = f"{self.num_labels}, the number of entries of id2label"
        _require(num_labels in (None, self.num_labels), "num_labels", num_labels, expected)

    @property
    def num_labels(self) -> int:
        """How many labels a classifier has; assigning another number names them LABEL_0, LABEL_1, ..."""
        return len(self.id2label or ())

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        _require(_is_int(num_labels, 1), "num_labels", num_labels, "a positive integer")
        if num_labels != self.num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    def validate(self) -> None:
        """Raise ConfigError, naming the first field that is wrong by itself or beside another one."""
        for name in POSITIVE_INTEGERS:
            _require(_is_int(getattr(self, name), 1), name, getattr(self, name), "a positive integer")
        layers = self.num_hidden_layers
        _require(_is_int(layers, 0), "num_hidden_layers", layers, "a non-negative integer")
        for name in FLAGS:
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            _require(_is_number(value) and 0.0 <= value <= 1.0, name, value, "a number from 0 to 1")
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            _require(_is_number(value) and 0.0 <= value < float("inf"), name, value, "a non-negative number")
        act_ok = isinstance(self.hidden_act, str) and self.hidden_act in activation_names()
        _require(act_ok, "hidden_act", self.hidden_act, one_of(activation_names()))
        pad = self.pad_token_id
        pad_ok = pad is None or (_is_int(pad, 0) and pad < self.vocab_size)
        _require(pad_ok, "pad_token_id", pad, f"null or an integer below vocab_size ({self.vocab_size})")
        same_size = self.embedding_size == self.hidden_size
        _require(
            same_size, "embedding_size", self.embedding_size, f"the same as hidden_size ({self.hidden_size})"
        )
        heads_ok = self.hidden_size % self.num_attention_heads == 0
        expected = f"a divisor of hidden_size ({self.hidden_size})"
        _require(heads_ok, "num_attention_heads", self.num_attention_heads, expected)
        for name, sizes in GROUPED_CHANNELS.items():
            for size in sizes:
                divides = getattr(self, size) % getattr(self, name) == 0
                _require(divides, name, getattr(self, name), f"a divisor of {size} ({getattr(self, size)})")
        self._validate_task()

    def _validate_task(self) -> None:
        _require(self.num_labels >= 1, "id2label", self.id2label, "at least one label")
        problem = self.problem_type
        _require(
            problem in (None, *PROBLEM_TYPES), "problem_type", problem, f"null or {one_of(PROBLEM_TYPES)}"
        )
        one_of_one = problem == "single_label_classification" and self.num_labels == 1
        _require(not one_of_one, "problem_type", problem, "regression, or num_labels of at least 2")
        names = self.architectures
        names_ok = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
        _require(names_ok, "architectures", names, "null or a list of class names")
        dtype_ok = self.dtype is None or (
            isinstance(self.dtype, str) and isinstance(getattr(torch, self.dtype, None), torch.dtype)
        )
        _require(dtype_ok, "dtype", self.dtype, "null or the name of a torch dtype, such as float16")
        _require(isinstance(self.extra, dict), "extra", self.extra, "a mapping")

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """The configuration in `data`, the content of a config.json, with `overrides` in place of its values.

        Keys of `data` that mean nothing here are kept in `extra`, however they are spelled. An overriding
        `num_labels` that differs from `data` also replaces its label names. return_unused_kwargs: give
        (configuration, overrides that are no fields) instead. Raises ConfigError.
        """
        if return_unused_kwargs:
            unused = cls._unused(overrides)
            return cls.from_dict(data, **overrides), unused
        _require(isinstance(data, dict), "config", data, "a JSON object")
        if (unnamed := unnamed_labels(data)) is not None:
            expected = f"at most {MAX_UNNAMED_LABELS} where id2label doesn't name them"
            raise ConfigError(f"config field num_labels is {unnamed}, expected {expected}")
        try:
            data = copy.deepcopy(data)
        except RecursionError:
            raise ConfigError("the configuration is nested too deeply") from None
        model_type = data.pop("model_type", MODEL_TYPE)
        _require(model_type == MODEL_TYPE, "model_type", model_type, repr(MODEL_TYPE))
        legacy_dtype = data.pop("torch_dtype", None)  # the key that transformers wrote before 4.56
        if data.get("dtype") is None:
            data["dtype"] = legacy_dtype
        known = {
            name: data.pop(name) for name in [*FIELD_NAMES, "num_labels"] if name in data and name != "extra"
        }
        labels: dict[str, Any] = {
            name: known.pop(name) for name in ("num_labels", "id2label", "label2id") if name in known
        }
        overridden = overrides.keys() & {"num_labels", "id2label", "label2id"}
        same_number = overridden == {"num_labels"} and overrides["num_labels"] == cls(**labels).num_labels
        if overridden and not same_number:
            labels = {}
        return cls(**{"extra": data, **known, **labels, **overrides})

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str], **overrides: Any) -> SqueezeBertConfig:
        """`from_dict` of a JSON file. Raises ConfigError, naming the file."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not a JSON file: {error}") from error
        try:
            return cls.from_dict(data, **overrides)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Every field and `extra` key, with `model_type`: what `from_dict` reads and config.json holds."""
        fields = {name: copy.deepcopy(getattr(self, name)) for name in FIELD_NAMES if name != "extra"}
        for name in ("problem_type", "architectures", "dtype"):
            if fields[name] is None:
                del fields[name]
        return {**copy.deepcopy(self.extra), "model_type": MODEL_TYPE, **fields}

    def to_json_string(self, use_diff: bool = False) -> str:
        """`to_dict` as JSON, keys sorted, with a closing newline: the text of config.json. use_diff: `to_diff_dict`."""
        fields = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json_string` to the file `path`."""
        self.to_json_file(path)

    @classmethod
    def has_field(cls, name: str) -> bool:
        """Whether `name` is a field, by its own or an older name."""
        return name in (*FIELD_NAMES, *IDLE_FIELDS, "num_labels", "torch_dtype", "name_or_path")


FIELD_NAMES = tuple(f.name for f in dataclasses.fields(_Fields))
# How alike (difflib's ratio) a name must be to a field's to be taken for a typing error: num_lables is, and
# bos_token_id, which many configurations have, is no pad_token_id.
TYPO = 0.85


def as_config(config: Any) -> SqueezeBertConfig:
    """`config` itself if it is this package's, otherwise a copy of one with `to_dict`, such as transformers'.

    Raises ArgumentError for anything else, and ConfigError.
    """
    if isinstance(config, SqueezeBertConfig):
        return config
    if not callable(getattr(config, "to_dict", None)):
        kind = f"{type(config).__module__}.{type(config).__name__}"
        raise ArgumentError(
            f"config is a {kind}, expected a SqueezeBertConfig of this package or of transformers"
        )
    copied = SqueezeBertConfig.from_dict(config.to_dict())
    copied.name_or_path = getattr(config, "name_or_path", "")
    return copied


def refuse_typo(name: str, *, unknown: bool = False) -> None:
    """Raise ConfigError for a name close to a field's, and for every other that is no field if `unknown`."""
    close = difflib.get_close_matches(
        name, (*FIELD_NAMES, "num_labels"), n=1, cutoff=0.6 if unknown else TYPO
    )
    if SqueezeBertConfig.has_field(name) or not (close or unknown):
        return
    hint = f", did you mean {close[0]}?" if close else ""
    raise ConfigError(f"config field {name} doesn't exist{hint}")


def unnamed_labels(data: dict[str, Any]) -> int | None:
    """How many labels a config.json asks for without naming them, if that is more than names are made for."""
    number = data.get("num_labels")
    named = data.get("id2label") is not None or data.get("label2id") is not None
    return number if not named and isinstance(number, int) and number > MAX_UNNAMED_LABELS else None


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"config field {name} is {value!r}, expected {expected}")


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
