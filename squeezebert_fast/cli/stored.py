"""What is stored in a directory: of which class a model is, and whether there is room for another."""

from __future__ import annotations

from pathlib import Path

from squeezebert_fast import modeling
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import InputError
from squeezebert_fast.storage.files import CONFIG_NAME
from squeezebert_fast.storage.hub import ModelFiles


def check_empty(target: Path, force: bool) -> None:
    """Raise InputError for a directory that holds files, unless `force`."""
    if target.is_dir() and not force and any(target.iterdir()):
        raise InputError(f"the target {target} holds files already; --force writes into it all the same")


def model_class(source: str) -> type[modeling.SqueezeBertPreTrainedModel]:
    """The class that a model's configuration names. Raises InputError where this package has none of that name."""
    config = SqueezeBertConfig.from_json_file(ModelFiles(source).required(CONFIG_NAME))
    name = (config.architectures or ["SqueezeBertModel"])[0]
    found = getattr(modeling, name) if name in modeling.__all__ else None
    if found is None or not issubclass(found, modeling.SqueezeBertPreTrainedModel):
        raise InputError(f"{source} is a {name}, which is no model of this package")
    return found
