"""Of which class a checkpoint is, and whether it has the head that a class needs."""

from __future__ import annotations

from squeezebert_fast.configuration import MODEL_TYPE, SqueezeBertConfig
from squeezebert_fast.errors import ConfigError
from squeezebert_fast.loading.fit import PREFIX
from squeezebert_fast.loading.weights import NoWeightsError, read_weights
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.encoder import SqueezeBertModel
from squeezebert_fast.modeling.heads import (
    SqueezeBertForMaskedLM,
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
)
from squeezebert_fast.storage.files import CONFIG_NAME, read_json_object
from squeezebert_fast.storage.hub import ModelFiles

CLASSES: dict[str, type[SqueezeBertPreTrainedModel]] = {
    cls.__name__: cls
    for cls in (
        SqueezeBertModel,
        SqueezeBertForMaskedLM,
        SqueezeBertForMultipleChoice,
        SqueezeBertForQuestionAnswering,
        SqueezeBertForSequenceClassification,
        SqueezeBertForTokenClassification,
    )
}

HEADS: dict[type[SqueezeBertPreTrainedModel], tuple[str, ...]] = {
    SqueezeBertForSequenceClassification: ("pooler.dense.", "classifier."),
    SqueezeBertForMaskedLM: ("cls.predictions.transform.",),
    SqueezeBertForMultipleChoice: ("pooler.dense.", "classifier."),
    SqueezeBertForQuestionAnswering: ("qa_outputs.",),
    SqueezeBertForTokenClassification: ("classifier.",),
}
"""What a checkpoint must hold for a class, beyond the encoder: an answer from random weights is none."""


def stored_class(files: ModelFiles) -> type[SqueezeBertPreTrainedModel]:
    """The class that a model's configuration names. Raises ConfigError where this package has none of that name."""
    config = SqueezeBertConfig.from_json_file(files.required(CONFIG_NAME))
    name = (config.architectures or ["SqueezeBertModel"])[0]
    if name not in CLASSES:
        raise ConfigError(f"{files.name_or_path} is a {name}, which is no model of this package")
    return CLASSES[name]


def check_head(model_class: type[SqueezeBertPreTrainedModel], files: ModelFiles) -> None:
    """Raise ConfigError for a checkpoint without the class's head, which loading would only warn of."""
    name_or_path = files.name_or_path
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
