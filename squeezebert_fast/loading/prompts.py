"""What texts begin with in sentence-transformers' models: named prompts of config_sentence_transformers.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeezebert_fast.errors import CheckpointError, InputError


@dataclass(frozen=True)
class Prompts:
    """What texts may begin with, by name. default: the name of the one that they begin with unless told otherwise."""

    texts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    @classmethod
    def of_config(cls, about: Mapping[str, Any], where: str) -> Prompts:
        """Those of the file's content. Raises CheckpointError, naming the file, for what can't be prompts."""
        prompts, default = about.get("prompts") or {}, about.get("default_prompt_name")
        if not isinstance(prompts, dict):
            raise CheckpointError(f"{where}: prompts is not a mapping from names to texts")
        texts = {name: "" if text is None else text for name, text in prompts.items()}
        if not all(isinstance(text, str) for text in texts.values()):
            raise CheckpointError(f"{where}: prompts is not a mapping from names to texts")
        if default is not None and default not in texts:
            raise CheckpointError(
                f"{where}: default_prompt_name is {default!r}, which is none of the prompts"
            )
        return cls(texts, default)

    def chosen(self, name: str | None, model: str) -> str:
        """The one of that name, the default one for None. Raises InputError, naming the model, for one it hasn't."""
        chosen = self.default if name is None else name
        if chosen is None:
            return ""
        if chosen not in self.texts:
            known = ", ".join(self.texts) or "none"
            raise InputError(f"the prompt is {chosen!r}, but {model} has {known}")
        return self.texts[chosen]
