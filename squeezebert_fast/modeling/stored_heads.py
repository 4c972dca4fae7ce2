"""Whether a checkpoint has the head that a class needs."""

from __future__ import annotations

from squeezebert_fast.configuration import MODEL_TYPE
from squeezebert_fast.errors import ConfigError
from squeezebert_fast.loading.fit import PREFIX
from squeezebert_fast.loading.weights import NoWeightsError, read_weights
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.heads import SqueezeBertForMaskedLM, SqueezeBertForSequenceClassification
from squeezebert_fast.storage.files import CONFIG_NAME, read_json_object
from squeezebert_fast.storage.hub import ModelFiles

HEADS: dict[type[SqueezeBertPreTrainedModel], tuple[str, ...]] = {
    SqueezeBertForSequenceClassification: ("pooler.dense.", "classifier."),
    SqueezeBertForMaskedLM: ("cls.predictions.transform.",),
}
"""What a checkpoint must hold for a class, beyond the encoder: an answer from random weights is none."""


def check_head(model_class: type[SqueezeBertPreTrainedModel], name_or_path: str) -> None:
    """Raise ConfigError for a checkpoint without the class's head, which loading would only warn of."""
    files = ModelFiles(name_or_path)
    config_path = files.required(CONFIG_NAME)
    config = read_json_object(config_path)
    if config.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        return  # loading says best what it is instead
    wanted = model_class.__name__
    stored_classes = config.get("architectures") or [wanted]
    if wanted not in stored_classes:
        raise ConfigError(f"{name_or_path} is a {stored_classes[0]}, expected a {wanted}")
    try:
        keys = [key.removeprefix(PREFIX) for key in read_weights(files.pinned_to(config_path))]
    except NoWeightsError:
        return  # nothing at all, or an int8 checkpoint, which is loaded whole or not
    for part in HEADS.get(model_class, ()):
        if not any(key.startswith(part) for key in keys):
            raise ConfigError(f"{name_or_path} has no weights {part}* and so isn't a {wanted}")
